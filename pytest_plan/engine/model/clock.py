"""Clocks: the engine's only source of time.

The engine uses a `Clock` for every deadline and wait. Tests pass their own clock, so they need not
sleep.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")
_SLICE = 0.2  # the maximum number of seconds that the system clock waits at a time


class Clock(Protocol):
    """The interface for reading the time and for waiting."""

    def now(self) -> float:
        """Return the time in seconds. It never decreases and ignores changes to the wall clock."""

    def get(self, inbox: queue.SimpleQueue[T], timeout: float | None) -> T:
        """Wait for the next item of `inbox` and return it.

        Args:
            inbox: the queue to read.
            timeout: the maximum time to wait, in seconds; None means no limit.

        Raises:
            queue.Empty: no item arrived within `timeout`.
        """

    def wait_for(
        self, condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None
    ) -> bool:
        """Wait until `predicate()` is true.

        Args:
            condition: a condition that the caller holds and that is notified whenever the result of
                `predicate` may have changed.
            predicate: a function that is called while `condition` is held.
            timeout: the maximum time to wait, in seconds; None means no limit.

        Returns:
            True if the predicate is true; False if `timeout` has expired.
        """


class SystemClock:
    """The monotonic clock of the machine."""

    now = staticmethod(time.monotonic)

    def get(self, inbox: queue.SimpleQueue[T], timeout: float | None) -> T:
        """Wait for the next item of `inbox`; see `Clock.get`."""
        if timeout is None:
            return inbox.get()
        deadline = self.now() + timeout
        while True:
            left = max(0.0, deadline - self.now())
            # Wait in slices: a signal delivered to another thread does not interrupt this wait.
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
    """A clock that can be paused, so that time spent in a debugger does not count toward limits.

    The engine compares deadlines with this clock, which leaves waiting to the inner clock.
    """

    def __init__(self, inner: Clock) -> None:
        self._read = inner.now
        # The seconds paused so far, and the start of the current pause or None. Both are in one
        # tuple, so that a reader on another thread never sees only half of a change.
        self._held: tuple[float, float | None] = (0.0, None)
        self.get = inner.get
        self.wait_for = inner.wait_for

    def now(self) -> float:
        """Return the inner clock's time minus the time spent paused."""
        lost, since = self._held
        return (self._read() if since is None else since) - lost

    def hold(self) -> None:
        """Pause the clock until `release`; do nothing if it is already paused."""
        lost, since = self._held
        if since is None:
            self._held = (lost, self._read())

    def release(self) -> None:
        """Resume the clock; do nothing if it is not paused."""
        lost, since = self._held
        if since is not None:
            self._held = (lost + self._read() - since, None)
