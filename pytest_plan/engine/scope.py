"""One call of one hook: how it is stopped, and what it has started."""

from __future__ import annotations

from pytest_plan.engine.errors import StateError
from pytest_plan.engine.interrupt import Interrupt
from pytest_plan.engine.outcomes import Hook
from pytest_plan.engine.processes import Process
from pytest_plan.engine.state import Guard
from pytest_plan.engine.stop import StopFlag


class CallScope(Guard):
    """What belongs to one call of one hook: how it is stopped, and what it has started."""

    def __init__(
        self,
        step: str,
        hook: Hook,
        attempt: int,
        deadline: float | None,
        reason: str | None = None,
    ) -> None:
        self.step = step
        self.attempt = attempt
        self.renew(hook, deadline, reason)
        self.abandoned = False  # set once, by the coordinator; read without a lock
        self.processes: list[Process] = []  # appended by the call's thread, read by others

    def renew(self, hook: Hook, deadline: float | None, reason: str | None) -> None:
        """Begin anew: the tail of a generator is another call with the `ctx` of the first."""
        self.hook = hook
        self.deadline = deadline
        self.reason = reason
        self.flag = StopFlag()
        self.mask: Interrupt = Interrupt()

    def stopping(self) -> bool:
        """Whether this call was asked to stop."""
        return self.flag.is_raised()

    def check(self) -> None:
        """Raise the reason when this call was asked to stop."""
        self.admit()
        if self.flag.stop is not None:
            raise self.flag.stop.error(self.step, self.hook, self.attempt)

    def admit(self) -> None:
        """Raise StateError when the step has been given up: it may change nothing any more."""
        if self.abandoned:
            raise StateError(
                f"step {self.step!r} was abandoned in {self.hook.value}, attempt {self.attempt}: "
                "what it does now is refused"
            )
