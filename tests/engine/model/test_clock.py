"""The system clock, the clock that can be paused, and the fake clock of these tests."""

from __future__ import annotations

import queue
import threading

import pytest

from pytest_plan.engine.model.clock import PlanClock, SystemClock
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Background


class TestSystemClock:
    """The system clock measures real time."""

    def test_it_never_goes_back(self) -> None:
        """Successive readings never decrease."""
        times = [SystemClock().now() for _ in range(1000)]
        assert times == sorted(times)

    @pytest.mark.parametrize("timeout", [None, 10, 0, -1])
    def test_an_available_item_is_returned_at_once(self, timeout: float | None) -> None:
        """The timeout makes no difference, even if it is zero, negative or None."""
        inbox: queue.SimpleQueue[int] = queue.SimpleQueue()
        inbox.put(7)
        assert SystemClock().get(inbox, timeout) == 7

    @pytest.mark.parametrize("timeout", [0.01, 0, -1])
    def test_get_raises_empty_after_the_timeout(self, timeout: float) -> None:
        """A timeout of zero or less raises the same exception."""
        with pytest.raises(queue.Empty):
            SystemClock().get(queue.SimpleQueue(), timeout)

    def test_wait_for_returns_whether_the_predicate_came_true(self) -> None:
        """It returns True when the predicate is true, and False after the timeout."""
        condition = threading.Condition()
        with condition:
            assert SystemClock().wait_for(condition, lambda: True, 10)
            assert not SystemClock().wait_for(condition, lambda: False, 0.01)


class TestPlanClock:
    """A clock that `hold` pauses and `release` continues."""

    def test_paused_time_does_not_count(self) -> None:
        """Paused time is not counted during a pause or after it, for any number of pauses."""
        inner = FakeClock(0)
        clock = PlanClock(inner)
        for _ in range(2):
            begun = clock.now()
            inner.advance(1)
            clock.hold()
            inner.advance(100)
            assert clock.now() == begun + 1
            clock.release()
            inner.advance(1)
            assert clock.now() == begun + 2

    def test_hold_and_release_are_idempotent(self) -> None:
        """One `release` continues after two calls of `hold`; a second one does nothing."""
        inner = FakeClock(0)
        clock = PlanClock(inner)
        clock.hold()
        inner.advance(10)
        clock.hold()
        inner.advance(10)
        clock.release()
        clock.release()
        inner.advance(1)
        assert clock.now() == 1


class TestFakeClock:
    """Properties of the fake clock that the other tests rely on."""

    def test_time_jumps_to_the_end_of_the_wait(self) -> None:
        """Waiting for an hour takes no real time."""
        clock = FakeClock()
        with pytest.raises(queue.Empty):
            clock.get(queue.SimpleQueue(), 3600)
        assert clock.now() == 1000 + 3600

    def test_time_jumps_to_the_earliest_of_several_deadlines(self) -> None:
        """Each thread wakes up at its own deadline, in order."""
        clock = FakeClock()
        ends: list[float] = []

        def wait(seconds: float) -> None:
            clock.now()  # from now on the clock waits for this thread
            ready.wait(10)
            condition = threading.Condition()
            with condition:
                clock.wait_for(condition, lambda: False, seconds)
            ends.append(clock.now())

        ready = threading.Barrier(2, timeout=10)
        for thread in [Background(lambda: wait(5)), Background(lambda: wait(2))]:
            thread.result()
        assert ends == [1002, 1005]

    def test_time_stands_still_while_a_thread_works(self) -> None:
        """A waiting thread does not make time pass for a thread that is working."""
        clock = FakeClock()
        go_on = threading.Event()

        def work() -> float:
            clock.now()
            assert go_on.wait(10)
            return clock.now()

        def wait() -> None:
            with pytest.raises(queue.Empty):
                clock.get(queue.SimpleQueue(), 5)

        working = Background(work)
        while len(clock._coordinators) < 1:
            pass
        waiting = Background(wait)
        while not clock._waiters:
            pass
        assert not threading.Event().wait(0.02)  # long enough for many polls by the waiting thread
        go_on.set()
        assert working.result() == 1000
        waiting.result()
        assert clock.now() == 1005

    def test_a_missing_notification_is_detected(self) -> None:
        """A predicate that becomes true without a notification raises `LostWakeup`."""
        clock = FakeClock()
        true: list[int] = []
        condition = threading.Condition()
        lost: list[str] = []

        def wait() -> None:
            try:
                with condition:
                    clock.wait_for(condition, lambda: bool(true), None)
            except AssertionError as error:
                lost.append(type(error).__name__)

        thread = threading.Thread(target=wait, name="plan-waits")
        thread.start()
        while not clock._waiters:
            pass
        true.append(1)
        with pytest.raises(queue.Empty):
            clock.get(queue.SimpleQueue(), 5)
        thread.join(10)
        assert lost == ["LostWakeup"]
        assert clock.lost_wakeups == 1
