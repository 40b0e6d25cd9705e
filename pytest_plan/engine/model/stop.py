"""Why something must stop, and the flag that says so to one call."""

from __future__ import annotations

import enum
from typing import NamedTuple

from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.model.outcomes import Hook, StepOutcome
from pytest_plan.engine.model.results import PlanCancelledError, PlanTimeoutError, StepTimeoutError


class StopKind(enum.Enum):
    """What makes a plan or a call stop."""

    FAILURE = "failure"  # a step failed: nothing new starts, what runs may finish
    CANCEL = "cancel"
    LIMIT = "limit"
    TIMEOUT = "timeout"  # the attempt's own timeout, or a cleanup's budget


class Stop(NamedTuple):
    """A request to stop, and its reason in words."""

    kind: StopKind
    reason: str

    @property
    def ends_running_steps(self) -> bool:
        """Whether steps that run are stopped too."""
        return self.kind is not StopKind.FAILURE

    @property
    def outcome(self) -> StepOutcome:
        """How a step ends that this kept from starting, or that it stopped."""
        return _OUTCOMES[self.kind]

    def error(self, step: str, hook: Hook, attempt: int) -> PlanError:
        """Return what `ctx.check()` raises in a hook that must stop."""
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
