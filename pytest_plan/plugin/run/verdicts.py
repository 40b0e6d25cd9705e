"""Decides whether a test can run, as far as that depends on the outcomes of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.plugin.declaring.declared import DeclaredSteps
from pytest_plan.plugin.items.verdict import Verdict

if TYPE_CHECKING:
    from pytest_plan.engine.execution.step_run import StepRun

_MISSING = {StepOutcome.FAILED: "failed", StepOutcome.TIMED_OUT: "timed out"}


class Verdicts:
    """The verdicts on the steps of a run.

    Args:
        declared: the steps of this process.
        mask: a function that masks the secrets in a text.
        has_losses: a function that returns whether any step was lost.

    Attributes:
        refusal: why steps that have not been provisioned will not be; None if it is not known.
    """

    def __init__(
        self,
        declared: DeclaredSteps,
        mask: Callable[[str], str],
        has_losses: Callable[[], bool],
    ) -> None:
        self._declared = declared
        self._mask = mask
        self._has_losses = has_losses
        self.refusal: str | None = None

    def on(self, name: str, step_runs: Mapping[str, StepRun]) -> Verdict | None:
        """Return why a test that needs the step cannot run, or None if it can."""
        record = step_runs.get(name)
        if record is None and not self._is_known(name):
            return self._unknown(name)
        if record is None or not record.has_ended:
            return self._not_provisioned(name)
        may_be_lost = record.outcome.provides or record.outcome is StepOutcome.BLOCKED
        loss = self._loss(record, step_runs) if may_be_lost and self._has_losses() else None
        if loss is None and record.outcome.provides and self._declared.definition.has_instances:
            return self._on_twins(record, step_runs)
        if loss is not None or record.outcome.provides:
            return loss
        return self._on_ended(record, step_runs)

    def _on_twins(self, record: StepRun, step_runs: Mapping[str, StepRun]) -> Verdict | None:
        """Return the verdict on an instance for another worker that has failed, if there is one.

        A step fails with any of its instances for workers, even if that for this worker is there.
        """
        due, needed = [record.name], set()
        while due:
            planned = step_runs[due.pop()].planned
            if planned.worker is not None and planned.shared_name not in needed:
                needed.add(planned.shared_name)
                due += planned.needs
        for twin in list(step_runs.values()):
            if twin.outcome.is_failure and twin.planned.shared_name in needed:
                return self._on_ended(twin, step_runs)
        return None

    def _is_known(self, name: str) -> bool:
        return name in self._declared.definition.steps or name in self._declared.steps

    def _on_ended(self, record: StepRun, step_runs: Mapping[str, StepRun]) -> Verdict:
        """Return the verdict on a step that does not provide anything."""
        root = _root_cause(record, step_runs)
        if record.outcome is StepOutcome.SKIPPED:
            expected = isinstance(root.cause, pytest.xfail.Exception)
            reason = self._mask(f"plan step {root.name!r}: {root.reason}")
            return Verdict(True, reason, (root.name,), is_expected=expected)
        what = _MISSING.get(root.outcome, "did not run")
        error = root.error
        said = root.reason if error is None else describe(error.__cause__ or error)
        reason = self._mask(f"plan step {root.name!r} {what}: {said}")
        return Verdict(skips=False, reason=reason, steps=(root.name,))

    def _loss(self, record: StepRun, step_runs: Mapping[str, StepRun]) -> Verdict | None:
        """Return the verdict on a step that was lost, or that needs one, directly or not."""
        due, seen = [record.name], set()
        while due:
            one = step_runs[due.pop(0)]
            if one.lost is not None:
                at = SystemClock.time_of_day(one.lost.wall)
                reason = f"plan step {one.name!r} was lost at {at}: {one.lost.detail}"
                return Verdict(skips=False, reason=self._mask(reason), steps=(one.name,))
            seen.add(one.name)
            due += [need for need in one.planned.needs if need not in seen]
        return None

    def _unknown(self, name: str) -> Verdict:
        known = ", ".join(self._declared.definition.steps) or "none"
        reason = f"unknown plan step {name!r} (the process that runs the plan knows: {known})"
        return Verdict(skips=False, reason=reason, steps=(name,))

    def _not_provisioned(self, name: str) -> Verdict:
        reason = f"step {name!r} was not provisioned: "
        settings = self._declared.settings
        if self.refusal is not None:
            return Verdict(skips=False, reason=reason + self.refusal, steps=(name,))
        if self._declared.is_later(name):
            reason += "it comes after the tests that do not need it"
            return Verdict(skips=False, reason=reason, steps=(name,), is_early=True)
        if settings.until is not None:
            reason += f"{settings.sources['until']} {settings.until}"
            return Verdict(skips=True, reason=reason, steps=(name,))
        if name in (self._declared.needed or ()):
            reason = f"step {name!r} is still being provisioned: "
            hint = f"mark the test with @pytest.mark.plan({name!r}), so that it waits for the step"
            return Verdict(skips=False, reason=reason + hint, steps=(name,), is_early=True)
        hint = f"mark the test with @pytest.mark.plan({name!r})"
        return Verdict(skips=False, reason=reason + hint, steps=(name,))


def _root_cause(record: StepRun, records: Mapping[str, StepRun]) -> StepRun:
    """Follow the needs to the step that is the cause; for a skip, to the first skipped step."""
    is_skip = record.outcome is StepOutcome.SKIPPED
    while True:
        needs = [records[need] for need in record.planned.needs]
        causes = [
            need
            for need in needs
            if not need.provides and (need.outcome is StepOutcome.SKIPPED) is is_skip
        ]
        if not causes:
            return record
        record = causes[0]
