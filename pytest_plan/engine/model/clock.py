"""Clocks: the package's only source of time.

The engine uses a `Clock` for every deadline and wait. The tests of the engine pass another clock,
so they need not sleep. Tests of users replace the functions of the module `time`, with freezegun or
a mock. This does not affect the `SystemClock`, even if it happens before this module is imported.
"""

from __future__ import annotations

import importlib.util
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
_SLICE = 0.2  # the maximum number of seconds that the system clock waits at a time


def _original_time() -> Any:
    """Return another instance of the module `time`, with functions that nothing has replaced."""
    found = importlib.util.find_spec("time")
    if found is None or found.loader is None:
        return time
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


_time = _original_time()


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
    """The monotonic clock of the machine. Tests cannot replace any of its methods.

    Attributes:
        now: returns the time in seconds; see `Clock.now`.
        wall: returns the seconds since the epoch, for what users read and other hosts compare.
        sleep: waits for some seconds.
    """

    now: Callable[[], float] = staticmethod(_time.monotonic)
    wall: Callable[[], float] = staticmethod(_time.time)
    sleep: Callable[[float], None] = staticmethod(_time.sleep)

    @staticmethod
    def time_of_day(wall: float) -> str:
        """Return the local time of day, such as `12:00:54`, of a result of `wall`."""
        return str(_time.strftime("%H:%M:%S", _time.localtime(wall)))

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
        # `Condition.wait_for` uses a clock that tests can replace, if there is a timeout.
        deadline = None if timeout is None else self.now() + timeout
        while not predicate():
            left = None if deadline is None else deadline - self.now()
            if left is not None and left <= 0:
                return False
            condition.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
        return True


class Flag:
    """An event that one thread sets and others wait for, as `threading.Event`.

    Tests may replace `Event.wait` while a thread of this package waits. This class has no Python
    code of the standard library, and is not affected.
    """

    __slots__ = ("_is_set", "_lock")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()  # held until the flag is set
        self._lock.acquire()

    def set(self) -> None:
        """Set the flag, and wake all that wait; a second call does nothing."""
        if not self._is_set:
            self._is_set = True
            self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Wait until the flag is set, but at most `timeout` seconds; return whether it is set."""
        if self._is_set or not self._lock.acquire(timeout=max(0.0, timeout)):
            return self._is_set
        self._lock.release()
        return True


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
