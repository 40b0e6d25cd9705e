"""Requests to stop: what kind there are, and the outcome and error that each leads to."""

from __future__ import annotations

import enum
from typing import NamedTuple

from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.model.outcomes import Hook, StepOutcome
from pytest_plan.engine.model.results import PlanCancelledError, PlanTimeoutError, StepTimeoutError


class StopKind(enum.Enum):
    """The causes for which a plan or a call stops."""

    FAILURE = "failure"  # a step failed: no new step starts, running steps may finish
    CANCEL = "cancel"
    LIMIT = "limit"
    TIMEOUT = "timeout"  # the `timeout` of an attempt, or the time limit of a cleanup


class Stop(NamedTuple):
    """A request to stop, with the reason that reports show."""

    kind: StopKind
    reason: str

    @property
    def ends_running_steps(self) -> bool:
        """Whether running steps are stopped as well."""
        return self.kind is not StopKind.FAILURE

    @property
    def outcome(self) -> StepOutcome:
        """The outcome of a step that this request stopped or kept from starting."""
        return _OUTCOMES[self.kind]

    def error(self, step: str, hook: Hook, attempt: int) -> PlanError:
        """Return the error that `ctx.check()` raises in a hook that must stop."""
        if self.kind is StopKind.TIMEOUT:
            return StepTimeoutError(
                f"step {step!r} {self.reason} in {hook.value}, attempt {attempt}",
                step=step,
                hook=hook.value,
                attempt=attempt,
            )
        kind = PlanTimeoutError if self.kind is StopKind.LIMIT else PlanCancelledError
        return kind(f"{self.reason}; step {step!r} was stopped in {hook.value}")


_OUTCOMES = {
    StopKind.FAILURE: StepOutcome.BLOCKED,
    StopKind.CANCEL: StepOutcome.CANCELLED,
    StopKind.LIMIT: StepOutcome.TIMED_OUT,
    StopKind.TIMEOUT: StepOutcome.TIMED_OUT,
}
