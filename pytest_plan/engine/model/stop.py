"""Requests to stop: their kinds, and the outcome and error that each kind leads to."""

from __future__ import annotations

import enum
from typing import NamedTuple

from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.model.outcomes import Hook, StepOutcome
from pytest_plan.engine.model.results import PlanCancelledError, PlanTimeoutError, StepTimeoutError


class StopKind(enum.Enum):
    """The reasons why a plan or a call is stopped."""

    FAILURE = "failure"  # a step failed: no new steps start, but running steps may finish
    END = "end"  # nobody needs the steps any more: running steps stop, and the plan has not failed
    CANCEL = "cancel"
    LIMIT = "limit"
    TIMEOUT = "timeout"  # the `timeout` of an attempt, or the time limit of a cleanup


class Stop(NamedTuple):
    """A request to stop, with the reason to show in reports."""

    kind: StopKind
    reason: str

    @property
    def ends_running_steps(self) -> bool:
        """Whether the request also stops running steps."""
        return self.kind is not StopKind.FAILURE

    @property
    def ends_plan(self) -> bool:
        """Whether the request decides the outcome of the plan, whatever its steps have come to."""
        return self.kind not in (StopKind.FAILURE, StopKind.END)

    @property
    def outcome(self) -> StepOutcome:
        """The outcome of a step that this request stopped or prevented from starting."""
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
    StopKind.END: StepOutcome.CANCELLED,
    StopKind.CANCEL: StepOutcome.CANCELLED,
    StopKind.LIMIT: StepOutcome.TIMED_OUT,
    StopKind.TIMEOUT: StepOutcome.TIMED_OUT,
}
