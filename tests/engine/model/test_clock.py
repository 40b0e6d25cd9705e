"""The clock of the machine, the one that can stand still, and the one of these tests."""

from __future__ import annotations

import queue
import threading

import pytest

from pytest_plan.engine.model.clock import PlanClock, SystemClock
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Background


class TestSystemClock:
    """Real time."""

    def test_it_never_goes_back(self) -> None:
        """It is monotonic."""
        times = [SystemClock().now() for _ in range(1000)]
        assert times == sorted(times)

    @pytest.mark.parametrize("timeout", [None, 10, 0, -1])
    def test_an_item_that_is_there_is_got_at_once(self, timeout: float | None) -> None:
        """Whatever the timeout."""
        inbox: queue.SimpleQueue[int] = queue.SimpleQueue()
        inbox.put(7)
        assert SystemClock().get(inbox, timeout) == 7

    @pytest.mark.parametrize("timeout", [0.01, 0, -1])
    def test_no_item_in_time_is_empty(self, timeout: float) -> None:
        """A time that has passed already is no error."""
        with pytest.raises(queue.Empty):
            SystemClock().get(queue.SimpleQueue(), timeout)

    def test_waiting_says_whether_it_was_worth_it(self) -> None:
        """True when the predicate is, False after the timeout."""
        condition = threading.Condition()
        with condition:
            assert SystemClock().wait_for(condition, lambda: True, 10)
            assert not SystemClock().wait_for(condition, lambda: False, 0.01)


class TestPlanClock:
    """It can be held."""

    def test_time_that_was_held_does_not_count(self) -> None:
        """Neither while it stands still nor afterwards; twice too."""
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

    def test_holding_twice_is_holding_once(self) -> None:
        """One release lets it go on; a second does nothing."""
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
    """What the other tests rely on."""

    def test_time_jumps_to_the_end_of_the_wait(self) -> None:
        """An hour takes no time."""
        clock = FakeClock()
        with pytest.raises(queue.Empty):
            clock.get(queue.SimpleQueue(), 3600)
        assert clock.now() == 1000 + 3600

    def test_time_jumps_to_the_nearest_of_several(self) -> None:
        """Both threads see their own end, in order."""
        clock = FakeClock()
        ends: list[float] = []

        def wait(seconds: float) -> None:
            clock.now()  # from here on the clock waits for this thread
            ready.wait(10)
            condition = threading.Condition()
            with condition:
                clock.wait_for(condition, lambda: False, seconds)
            ends.append(clock.now())

        ready = threading.Barrier(2, timeout=10)
        for thread in [Background(lambda: wait(5)), Background(lambda: wait(2))]:
            thread.result()
        assert ends == [1002, 1005]

    def test_time_stands_still_for_a_thread_at_work(self) -> None:
        """However long another one waits."""
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
        assert not threading.Event().wait(0.02)  # many looks of the waiter
        go_on.set()
        assert working.result() == 1000
        waiting.result()
        assert clock.now() == 1005

    def test_a_wait_that_is_not_notified_is_noticed(self) -> None:
        """A predicate that came true in silence."""
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
