"""Why something must stop, and the flag that says so to one call."""

from __future__ import annotations

import enum
import threading
from typing import NamedTuple

from pytest_plan.engine.model.errors import (
    PlanCancelledError,
    PlanError,
    PlanTimeoutError,
    StepTimeoutError,
)
from pytest_plan.engine.model.outcomes import Hook, StepOutcome


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


class StopFlag:
    """Raised once for one call; wakes whoever waits on `condition`."""

    __slots__ = ("condition", "stop")

    def __init__(self) -> None:
        # `stop` goes from None to its one value with `condition` held; readers need no lock.
        self.condition: threading.Condition = threading.Condition()
        self.stop: Stop | None = None

    def raise_(self, stop: Stop) -> None:
        """Ask to stop, for this reason; a second request changes nothing."""
        with self.condition:
            self.stop = self.stop or stop
            self.condition.notify_all()

    def is_raised(self) -> bool:
        """Whether somebody asked to stop."""
        return self.stop is not None
