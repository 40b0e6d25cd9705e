"""One call of one hook: how it is stopped, and what it has started."""

from __future__ import annotations

import threading

from pytest_plan.engine.calls.interrupt import Interrupt
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.model.stop import Stop
from pytest_plan.engine.processes.process import Process
from pytest_plan.engine.shared.store import Guard


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
        self._abandoned: int | None = None  # a thread; set once, by the coordinator
        self.cookie: str | None = None  # of the programs that it runs to their end
        self.processes: list[Process] = []  # appended by the call's thread, read by others

    def renew(self, hook: Hook, deadline: float | None, reason: str | None) -> None:
        """Begin anew: the tail of a generator is another call with the `ctx` of the first."""
        self.hook = hook
        self.deadline = deadline
        self.reason = reason
        self.flag: StopFlag = StopFlag()
        self.mask: Interrupt = Interrupt()

    def stopping(self) -> bool:
        """Whether this call was asked to stop."""
        return self.flag.is_raised()

    def check(self) -> None:
        """Raise the reason when this call was asked to stop."""
        self.admit()
        if self.flag.stop is not None:
            raise self.flag.stop.error(self.step, self.hook, self.attempt)

    def abandon(self, thread: int) -> None:
        """Refuse from now on what the call's thread does: it was left behind."""
        self._abandoned = thread

    def is_abandoned(self) -> bool:
        """Whether the calling thread is the one that was left behind."""
        return self._abandoned == threading.get_ident()

    def admit(self) -> None:
        """Raise StateError when the call was given up: it may change nothing any more."""
        if self.is_abandoned():
            raise StateError(
                f"step {self.step!r} was abandoned in {self.hook.value}, attempt {self.attempt}: "
                "what it does now is refused"
            )


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
