"""A member of a shared environment: it runs no step that the owner runs, and tests on its State."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.definition.graph import closure
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import PlanDefinitionError, StateError
from pytest_plan.engine.model.events import StepFinished
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.processes.addresses import is_loopback, loopback_in, network
from pytest_plan.plugin.compat import pytest_internals
from pytest_plan.plugin.main_thread.heartbeat import Heartbeat
from pytest_plan.plugin.run.environments.sharing.link import ASK
from pytest_plan.plugin.run.environments.sharing.rows import (
    Decided,
    Published,
    decided_in,
    published,
    variables_in,
)
from pytest_plan.plugin.run.environments.sharing.state import EnvironmentStore
from pytest_plan.sharing.errors import ShareError
from pytest_plan.sharing.model import Kind

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.execution.step_run import StepRun
    from pytest_plan.plugin.main_thread.foreground import Foreground
    from pytest_plan.plugin.run.environments.sharing.link import Link
    from pytest_plan.plugin.run.environments.sharing.trust.secrets import Vault
    from pytest_plan.sharing.model import Row

_AGAIN = 1.0  # seconds between two questions to an owner that does not answer
_FAILED = (StepOutcome.FAILED, StepOutcome.TIMED_OUT)


class MemberPart:
    """What a member does instead of running steps.

    Args:
        config: the config of this process.
        link: the part of this run in the environment.
        foreground: the main thread.
        vault: decrypts the environment variables that contain secrets.

    Attributes:
        logs: the last lines of the logs of steps that have failed, by the name of the step.
    """

    def __init__(
        self, config: pytest.Config, link: Link, foreground: Foreground, vault: Vault
    ) -> None:
        self._config = config
        self._vault = vault
        self._link = link
        self._foreground = foreground
        self._outcomes: Mapping[str, Published] = {}
        self._seen = 0  # the version of the last outcome
        self._decided: Decided | None = None
        self._does = "is about to provision"
        self._set: set[str] = set()  # the steps whose variables are set
        self._warned: set[str] = set()
        self._provided: set[str] = set()
        self._losses: Mapping[str, str] = {}  # replaced by the thread of the link
        self._lost_until = 0  # the version of the last outcome that was looked at
        self.logs: dict[str, str] = {}

    def await_steps(self, run: Run) -> None:
        """Wait until the owner has decided all steps, and take over their outcomes.

        A signal ends the wait. So does the loss of the owner: what it has provisioned can be used.
        """
        if self._decided is None:
            signals = self._foreground.signals
            heartbeat = Heartbeat(self._foreground, self._doing)
            self._link.wait(lambda: self._look() or bool(signals.received), heartbeat)
        for step_run in run.step_runs.values():
            if step_run.planned.worker is None and not step_run.has_ended:
                self._take(run, step_run)
        if self._decided is not None or self._provided:
            self._use_values(run, self._decided)
        run.catch_up()

    def look_after_owner(self) -> None:
        """Notice now that the owner is lost."""
        try:
            if self._link.trouble is None:
                self._link.renew()
        except ShareError as error:
            self._link.fail(str(error))

    def look_for_losses(self, tell: Callable[[], None]) -> None:
        """Notice that steps were lost after they had succeeded; any thread may call this.

        Args:
            tell: a function to call if there are such steps.
        """
        if self._decided is None or self._link.trouble is not None:
            return
        after = self._lost_until
        rows = self._link.call(lambda store, access: store.rows(access, Kind.OUTCOME, after))
        self._lost_until = max((row.version for row in rows), default=self._lost_until)
        lost = {name: one.reason for name, one in published(rows).items() if one.outcome in _FAILED}
        lost = {name: why for name, why in lost.items() if name in self._provided}
        if lost:
            self._losses = {**self._losses, **lost}
            tell()

    def loss(self, run: Run, name: str) -> tuple[str, str] | None:
        """Return the step that was lost, and why, if a step is or needs one; else None."""
        if not self._losses:
            return None
        steps = {one.name: one.planned for one in run.step_runs.values()}
        needed = closure([name], steps, needs_only=True) if name in steps else {name}
        return next(((step, self._losses[step]) for step in self._losses if step in needed), None)

    def leave(self, *, failed: bool) -> None:
        """Leave the environment, once it is known that the owner lives.

        If the owner was lost and no other run has claimed the environment, this run claims it.

        Args:
            failed: whether this run has failed.
        """
        link = self._link
        try:
            if link.trouble is None and not link.is_local and not self._foreground.signals.received:
                self._await_owner()
            while link.trouble is None and not link.is_caretaker:
                link.is_leaving = True  # from now on, the owner may clean up
                view = link.call(lambda store, access: store.leave(access, failed=failed))
                if link.member.id not in {one.id for one in view.members}:
                    return
                link.take_over()
        except ShareError as error:
            link.fail(str(error))  # its lease lapses

    def _look(self) -> bool:
        """Return whether the owner has decided all steps, or is lost."""
        link = self._link
        if link.trouble is not None:
            return True
        is_lost = link.lost is not None  # read before the last rows of the owner
        try:
            rows = link.call(lambda store, access: store.rows(access, Kind.OUTCOME, self._seen))
        except ShareError as error:
            link.fail(str(error))
            return True
        self._seen = max((row.version for row in rows), default=self._seen)
        self._outcomes = {**self._outcomes, **published(rows)}
        self._decided = decided_in(rows) or self._decided
        return self._decided is not None or is_lost

    def _running(self) -> list[str]:
        found = self._outcomes.items()
        return [name for name, one in found if one.outcome is StepOutcome.RUNNING]

    def _doing(self) -> str:
        if running := self._running():
            self._does = f"provisions {', '.join(running)}"
        return f"{self._link.owner} {self._does} for {self._link.name!r}: this run waits"

    def _take(self, run: Run, step_run: StepRun) -> None:
        """Give a step the outcome that it has in the run of the owner."""
        link = self._link
        found = self._outcomes.get(step_run.name)
        if self._decided is None and self._foreground.signals.received:
            outcome, reason = StepOutcome.CANCELLED, f"{link.owner} had not provisioned it yet"
        elif found is None or found.outcome in (StepOutcome.RUNNING, StepOutcome.PENDING):
            if self._decided is None or found is not None:
                outcome, reason = StepOutcome.BLOCKED, self._why_undecided()
            else:
                outcome, reason = StepOutcome.BLOCKED, f"{link.owner} does not provision it"
        elif found.outcome.provides:
            took = format_duration(found.seconds)
            outcome, reason = StepOutcome.REUSED, f"provisioned by {link.owner} in {took}"
            self._provided.add(step_run.name)
        elif found.outcome in _FAILED:
            outcome, reason = StepOutcome.BLOCKED, f"it failed in {link.owner}: {found.reason}"
            self.logs[step_run.name] = found.log
        else:
            outcome, reason = found.outcome, found.reason
        step_run.restore(outcome, 0, None, reason)
        step_run.started = step_run.ended = None  # it never begins in this run
        run.facts.emit(StepFinished(step_run.result(), run.facts.elapsed()))

    def _why_undecided(self) -> str:
        why = self._link.trouble or self._link.lost
        if why is None:
            return f"{self._link.owner} has not provisioned it"
        running = self._running()
        while_ = f" while it provisioned {running[0]!r}" if running else ""
        return f"{why}{while_}"

    def _use_values(self, run: Run, decided: Decided | None) -> None:
        """Set the environment variables of steps; warn of addresses of another machine.

        Args:
            run: the run.
            decided: what the owner has published at the end; None if it was lost before that.
        """
        link = self._link
        shared = {
            name: one.planned for name, one in run.step_runs.items() if not one.planned.worker
        }
        try:
            variables = variables_in(
                self._read(link.call(lambda store, access: store.rows(access, Kind.VARIABLE)))
            )
            values = link.call(lambda store, access: store.rows(access, Kind.STATE))
        except ShareError as error:
            link.fail(str(error))
            return
        store = run.facts.store
        assert isinstance(store, EnvironmentStore)
        store.fix(row for row in values if row.key in shared)
        parts = [(row.key, "value", row.text) for row in self._read(values, say=False)]
        for step, name, text in variables:
            parts.append((step, f"environment variable {name!r}", text))
            if step in shared and step not in self._set:
                try:
                    run.facts.set_variable(name, text, step, shared[step].instance)
                except PlanDefinitionError as error:
                    link.fail(str(error))
        self._set.update(step for step, _, _ in variables)
        if decided is not None and decided.network != network():
            self._warn([one for one in parts if one[0] in shared], decided.host)

    def _read(self, rows: Iterable[Row], *, say: bool = True) -> list[Row]:
        """Decrypt rows; leave out those that this run cannot decrypt."""
        found = []
        for row in rows:
            try:
                found.append(self._vault.decrypted(row))
            except StateError as error:
                step, _, name = row.key.rpartition(" ")
                if say:
                    text = f"environment variable {name} of step {step!r} {error}"
                    self._foreground.say(text, bad=True)
        return found

    def _warn(self, parts: list[tuple[str, str, str]], host: str) -> None:
        """Warn once of each step that gives tests a loopback address of the owner's machine."""
        cure = (
            "let the step use ctx.host, as the ready-made steps do, and run pytest with "
            "--plan-host and an address of its machine that all runs can reach"
        )
        if not is_loopback(host):
            cure = f"let the step use ctx.host, which is {host!r}"
        for step, part, text in parts:
            found = loopback_in(text)
            if found is not None and step not in self._warned:
                self._warned.add(step)
                pytest_internals.warn(
                    self._config,
                    f"the {part} of step {step!r} contains {found!r}, which is the machine of "
                    f"{self._link.owner} and not this one: {cure}",
                )

    def _await_owner(self) -> None:
        """Ask the owner for a sign of life, and wait for it until its lease lapses."""
        link, begun = self._link, SystemClock.now()
        beats, asked = link.view.beats, [0.0]
        lease = format_duration(link.view.lease)

        def is_over() -> bool:
            try:
                if SystemClock.now() >= asked[0] + _AGAIN:
                    asked[0] = SystemClock.now()
                    link.call(lambda store, access: store.notify(access, ASK))
                link.renew()
            except ShareError as error:
                link.fail(str(error))
            is_hurried = bool(self._foreground.signals.received)
            is_known = link.view.beats > beats or link.is_caretaker
            return link.trouble is not None or is_known or is_hurried

        say = Heartbeat(
            self._foreground,
            lambda: f"waiting up to {lease}: the owner {link.owner} does not answer",
        )
        link.wait(is_over, lambda: say() if SystemClock.now() > begun + _AGAIN else None)


class OwnersLogs:
    """Shows the log of a step that has failed in the owner, with the first test that it blocks."""

    def __init__(self, logs: dict[str, str], owner: str, foreground: Foreground) -> None:
        self._logs = logs
        self._owner = owner
        self._foreground = foreground

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the log, and add it to the report of the blocked test."""
        for step in getattr(report, "plan_blocked", ()):
            if text := self._logs.pop(step, ""):
                title = f"log of plan step {step!r} in {self._owner}"
                report.sections.append((title, text))
                for line in (f"{title}:", *text.splitlines()):
                    self._foreground.say(line, bad=True)
