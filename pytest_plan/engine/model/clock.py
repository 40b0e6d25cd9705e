"""Time as the engine sees it: monotonic, and injected so that tests need not sleep."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")
_SLICE = 0.2  # seconds


class Clock(Protocol):
    """Tells the time and does all waiting of the engine."""

    def now(self) -> float:
        """Return seconds that never go back and ignore changes of the wall clock."""

    def get(self, inbox: queue.SimpleQueue[T], timeout: float | None) -> T:
        """Return the next item; raise `queue.Empty` after `timeout` seconds, None: never."""

    def wait_for(
        self, condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None
    ) -> bool:
        """Wait until `predicate()`; the caller holds `condition`; False after `timeout` seconds."""


class SystemClock:
    """The clock of the machine."""

    now = staticmethod(time.monotonic)

    def get(self, inbox: queue.SimpleQueue[T], timeout: float | None) -> T:
        """Return the next item of `inbox`; see `Clock.get`."""
        if timeout is None:
            return inbox.get()
        deadline = self.now() + timeout
        while True:
            left = max(0.0, deadline - self.now())
            # In slices: a signal that the kernel gives to another thread wakes nobody here.
            try:
                return inbox.get(timeout=min(left, _SLICE))
            except queue.Empty:
                if left <= _SLICE:
                    raise

    def wait_for(
        self, condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None
    ) -> bool:
        """Wait on `condition`; see `Clock.wait_for`."""
        return condition.wait_for(predicate, timeout)


class PlanClock:
    """A clock that can stand still, so that a debugger or a question costs no limit.

    Deadlines are times of this clock; waiting is the inner clock's.
    """

    def __init__(self, inner: Clock) -> None:
        self._read = inner.now
        # Seconds held so far, and since when it stands still: one tuple, so that a reader on
        # another thread never sees half of a change.
        self._held: tuple[float, float | None] = (0.0, None)
        self.get = inner.get
        self.wait_for = inner.wait_for

    def now(self) -> float:
        """Return the inner clock's time less the time that was held."""
        lost, since = self._held
        return (self._read() if since is None else since) - lost

    def hold(self) -> None:
        """Stand still until `release`."""
        lost, since = self._held
        if since is None:
            self._held = (lost, self._read())

    def release(self) -> None:
        """Go on from where `hold` stopped."""
        lost, since = self._held
        if since is not None:
            self._held = (lost + self._read() - since, None)
