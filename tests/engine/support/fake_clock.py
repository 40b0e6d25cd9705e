"""A clock for tests: time passes when every thread of the engine waits for it, and only then."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_plan.engine.calls.threads import frame_of

T = TypeVar("T")

SLICE = 0.001  # real seconds between two checks
PATIENCE = 2000  # checks of a true predicate until a missing `notify` is an error
GRAIN = 1e-6  # the least by which time moves, in fake seconds
LONGEST = 10.0  # real seconds without any change until the test counts as stuck
SOON = 1.0  # real seconds; an event loop with a timer nearer than this is at work


class Stuck(AssertionError):  # noqa: N818 - what happened, not an error of the test
    """The test would wait for ever: a thread is still working, but nothing happens."""


class LostWakeup(AssertionError):  # noqa: N818 - what happened, not an error of the test
    """The condition that a thread waits for became true, but no thread notified it."""


@dataclass(slots=True)
class _Waiter:
    """A thread that waits until `ready()` is true or until `deadline`."""

    ready: Callable[[], bool]
    deadline: float | None
    condition: threading.Condition | None = None
    unnoticed: int = 0

    @property
    def is_lost(self) -> bool:
        return self.unnoticed > PATIENCE

    def is_over(self, now: float) -> bool:
        return self.is_lost or (self.deadline is not None and self.deadline <= now)

    def is_due(self, now: float) -> bool:
        return self.ready() or self.is_over(now)

    def wake(self) -> None:
        if self.condition is not None:
            with self.condition:
                self.condition.notify_all()


class FakeClock:
    """A `Clock` whose time jumps to the nearest deadline as soon as nothing else can happen.

    Nothing else can happen when every thread of the engine (its name begins with `plan-`) and
    every coordinator (any other thread that asked for the time) waits in this clock for something
    that has not come yet, or in an idle event loop. User code that blocks on anything else counts
    as working, so time stands still: that is how a test stops a step at a certain point.
    """

    def __init__(self, start: float = 1000.0) -> None:
        # Everything below changes only under _changed, which is notified of each jump.
        self._changed = threading.Condition()
        self._now = start
        self._waiters: dict[int, _Waiter] = {}
        self._coordinators: set[threading.Thread] = set()
        self._strangers = set(threading.enumerate())  # left by others: not ours to wait for
        self.lost_wakeups = 0  # how often a thread waited for what was true already
        self._changes = 0  # grows when a thread begins to wait and when time jumps
        self._turned = 0  # the change that `spin` has seen

    def now(self) -> float:
        """Return the fake time; from now on the clock also waits for the calling thread."""
        thread = threading.current_thread()
        if thread not in self._coordinators and not self._is_of_engine(thread):
            with self._changed:
                self._coordinators.add(thread)
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass, whether or not threads are working."""
        with self._changed:
            self._jump(self._now + seconds)
        self._wake_those_whose_time_is_up()

    def get(self, inbox: queue.SimpleQueue[T], timeout: float | None) -> T:
        """Return the next item of `inbox`; see `Clock.get`."""
        waiter = _Waiter(lambda: not inbox.empty(), self._deadline(timeout))
        before = self._enter(waiter)
        stuck_at = time.monotonic() + LONGEST
        try:
            while True:
                with self._changed:
                    if waiter.ready():
                        # One step: no thread may see us wait after the item is there.
                        self._restore(before)
                        return inbox.get_nowait()
                    if waiter.is_over(self._now):
                        raise queue.Empty
                    self._jump_if_quiet()
                    if not waiter.is_due(self._now):
                        self._changed.wait(SLICE)
                self._wake_those_whose_time_is_up()
                if timeout is not None and time.monotonic() > stuck_at:
                    raise Stuck(f"{sorted(self._busy())} are at work, or wait for nothing")
        finally:
            self._leave(before)

    def wait_for(
        self, condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None
    ) -> bool:
        """Wait on `condition`; see `Clock.wait_for`.

        A thread of the engine checks the predicate again only when it is notified, as with
        the real clock, so a missing `notify` raises `LostWakeup`.
        """
        if predicate():  # if it raises, no waiter may be registered
            return True
        waiter = _Waiter(predicate, self._deadline(timeout), condition)
        before = self._enter(waiter)
        try:
            while True:
                if waiter.is_lost:
                    self.lost_wakeups += 1
                    raise LostWakeup("what this thread waits for came true without a notify")
                if predicate():
                    return True
                if waiter.is_over(self._now):
                    return False
                if threading.current_thread().name.startswith("plan-"):
                    condition.wait()  # the coordinator drives the time
                else:
                    with self._changed:
                        self._jump_if_quiet()
                    condition.wait(SLICE)
        finally:
            self._leave(before)

    def hang(self, function: Callable[[], T]) -> T:
        """Call `function` while time goes on, as it does for a thread that hangs."""
        before = None
        try:
            before = self._enter(_Waiter(lambda: False, None))
            return function()
        finally:
            self._leave(before)

    def spin(self) -> None:
        """Loop for ever in pure Python; time goes on, but never faster than the loop runs."""
        before = None
        try:
            before = self._enter(_Waiter(lambda: self._turned != self._changes, None))
            while True:
                self._turned = self._changes
        finally:
            self._leave(before)

    def _deadline(self, timeout: float | None) -> float | None:
        if timeout is None:
            return None
        if timeout <= 0:
            return self._now
        # Rounded against errors of float sums; never 0, or time would stand still.
        return max(round(self._now + timeout, 6), self._now + GRAIN)

    def _enter(self, waiter: _Waiter) -> _Waiter | None:
        with self._changed:
            before = self._waiters.get(threading.get_ident())
            self._waiters[threading.get_ident()] = waiter
            self._changes += 1
            return before

    def _leave(self, before: _Waiter | None) -> None:
        with self._changed:
            self._restore(before)

    def _restore(self, before: _Waiter | None) -> None:
        if before is None:
            self._waiters.pop(threading.get_ident(), None)
        else:
            self._waiters[threading.get_ident()] = before

    def _jump_if_quiet(self) -> None:
        waiters = self._waiters
        if any(waiter.is_due(self._now) for waiter in waiters.values()):
            return
        if self._busy():
            return
        deadlines = [one.deadline for one in waiters.values() if one.deadline is not None]
        if deadlines:
            self._jump(min(deadlines))

    def _busy(self) -> list[str]:
        return [
            thread.name
            for thread in threading.enumerate()
            if thread in self._coordinators or self._is_of_engine(thread)
            if thread.ident not in self._waiters and not _rests_in_event_loop(thread)
        ]

    def _is_of_engine(self, thread: threading.Thread) -> bool:
        # The thread that copies logs waits in real time, because programs write in real time.
        is_ours = thread.name.startswith("plan-") and thread.name != "plan-logs"
        return is_ours and thread not in self._strangers

    def _jump(self, now: float) -> None:
        self._now = now
        self._changes += 1
        self._changed.notify_all()

    def _wake_those_whose_time_is_up(self) -> None:
        # Without _changed: a waiter takes it while it holds its condition.
        with self._changed:
            waiters = list(self._waiters.values())
            for waiter in waiters:
                waiter.unnoticed = waiter.unnoticed + 1 if waiter.ready() else 0
        for waiter in waiters:
            if waiter.is_over(self._now):
                waiter.wake()


def _rests_in_event_loop(thread: threading.Thread) -> bool:
    """Return whether the thread waits in the `select` of an idle asyncio loop."""
    frame = frame_of(thread.ident)
    if frame is None or frame.f_back is None:
        return False
    if (frame.f_globals.get("__name__"), frame.f_code.co_name) != ("selectors", "select"):
        return False
    loop: Any = frame.f_back.f_locals.get("self")
    if loop is None or loop._ready:
        return False
    if any(timer.when() - loop.time() < SOON for timer in list(loop._scheduled)):
        return False
    # It is still the same call of `select`, so the thread was in it all the time.
    return frame_of(thread.ident) is frame
