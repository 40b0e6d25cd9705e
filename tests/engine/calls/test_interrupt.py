"""Exceptions injected into another thread never leave the engine's data half changed."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from pytest_plan.engine.calls.interrupt import Interrupt, StepInterrupted, call_interruptibly

ROUNDS = 300


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    """Switch threads much more often than usual, so that more interleavings are tested."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True, params=["plain", "traced"])
def traced(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run each test also under a trace function, as coverage does."""
    if request.param == "plain":
        yield
        return

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        return trace

    before, threads = sys.gettrace(), threading.gettrace()
    threading.settrace(trace)
    yield
    sys.settrace(before)
    threading.settrace(threads)


class Worker:
    """A loop on a new thread, to be interrupted."""

    def __init__(self, interrupt: Interrupt, turn: Callable[[], object]) -> None:
        self._interrupt = interrupt
        self._turn = turn
        self.turns = 0
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        while not self.turns and self.thread.is_alive():
            time.sleep(0)  # lets the other thread run

    def _run(self) -> None:
        try:
            call_interruptibly(self._interrupt, self._loop)
        except BaseException as error:
            self.error = error

    def _loop(self) -> None:
        while True:
            self._turn()
            self.turns += 1

    def join(self) -> None:
        """Wait for the end of the loop."""
        self.thread.join(10)
        assert not self.thread.is_alive()


class TestInterrupt:
    """`Interrupt`, which interrupts one call."""

    def test_a_loop_in_python_ends(self) -> None:
        """StepInterrupted ends it."""
        interrupt = Interrupt()
        worker = Worker(interrupt, lambda: None)
        interrupt.inject()
        worker.join()
        assert isinstance(worker.error, StepInterrupted)

    def test_no_masked_update_is_torn(self) -> None:
        """After hundreds of injections, no update under a masked lock is half done."""
        lock = threading.Lock()
        left, right = [0], [0]
        torn = 0
        for number in range(ROUNDS):
            interrupt = Interrupt()

            def update(interrupt: Interrupt = interrupt) -> None:
                with interrupt, lock:
                    left[0] += 1
                    for _ in range(20):
                        pass
                    right[0] += 1

            worker = Worker(interrupt, update)
            for _ in range(number % 5):
                time.sleep(0)  # another moment of the loop
            interrupt.inject()
            worker.join()
            assert isinstance(worker.error, StepInterrupted)
            assert not lock.locked()
            torn += left[0] != right[0]
        assert torn == 0

    def test_unmasked_updates_do_tear(self) -> None:
        """This proves that the test above would detect a torn update."""
        torn = 0
        for _ in range(ROUNDS):
            interrupt = Interrupt()
            left, right = [0], [0]

            def update(left: list[int] = left, right: list[int] = right) -> None:
                left[0] += 1
                for _ in range(20):
                    pass
                right[0] += 1

            worker = Worker(interrupt, update)
            interrupt.inject()
            worker.join()
            torn += left[0] != right[0]
        assert torn > 0

    def test_it_is_delivered_when_the_mask_ends(self) -> None:
        """It is neither delivered inside the mask nor lost."""
        interrupt, inside, go_on = Interrupt(), threading.Event(), threading.Event()
        reached: list[str] = []

        def call() -> None:
            with interrupt:
                inside.set()
                assert go_on.wait(10)
                reached.append("end of the mask")
            reached.append("never")

        errors: list[BaseException] = []

        def run() -> None:
            try:
                call_interruptibly(interrupt, call)
            except StepInterrupted as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert inside.wait(10)
        interrupt.inject()
        go_on.set()
        thread.join(10)
        assert reached == ["end of the mask"]
        assert len(errors) == 1

    def test_an_inner_mask_does_not_end_the_outer(self) -> None:
        """Masks can be nested."""
        interrupt = Interrupt()
        reached: list[str] = []

        def call() -> None:
            with interrupt:
                with interrupt:
                    interrupt.inject()
                reached.append("between the ends")

        with pytest.raises(StepInterrupted):
            call_interruptibly(interrupt, call)
        assert reached == ["between the ends"]

    def test_an_error_inside_the_mask_is_not_replaced(self) -> None:
        """An exception that is unwinding continues."""
        interrupt = Interrupt()

        def call() -> None:
            with interrupt:
                interrupt.inject()
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            call_interruptibly(interrupt, call)

    def test_a_finally_clause_can_use_masked_calls(self) -> None:
        """StepInterrupted is not raised again while it unwinds."""
        interrupt = Interrupt()
        reached: list[str] = []

        def call() -> None:
            try:
                with interrupt:
                    interrupt.inject()
            finally:
                with interrupt:
                    reached.append("masked")
                reached.append("after")

        with pytest.raises(StepInterrupted):
            call_interruptibly(interrupt, call)
        assert reached == ["masked", "after"]

    def test_who_swallows_it_gets_it_again_at_the_next_masked_call(self) -> None:
        """A loop with a bare `except` cannot continue for ever."""
        interrupt = Interrupt()
        turns = 0

        def call() -> None:
            nonlocal turns
            while True:
                turns += 1
                try:
                    with interrupt:
                        interrupt.inject()
                except StepInterrupted:
                    if turns == 3:
                        raise

        with pytest.raises(StepInterrupted):
            call_interruptibly(interrupt, call)
        assert turns == 3

    def test_nothing_arrives_after_the_call_has_ended(self) -> None:
        """After hundreds of late injections, the code after a call was never hit."""
        hit: list[BaseException] = []
        outcomes = set()
        for number in range(ROUNDS):
            interrupt, ready = Interrupt(), threading.Barrier(2, timeout=10)

            def run(interrupt: Interrupt = interrupt, ready: threading.Barrier = ready) -> None:
                ready.wait()
                try:
                    call_interruptibly(interrupt, lambda: sum(range(100)))
                    outcomes.add("returned")
                except StepInterrupted:
                    outcomes.add("interrupted")
                try:
                    for _ in range(200):
                        pass
                except BaseException as error:
                    hit.append(error)

            thread = threading.Thread(target=run)
            thread.start()
            ready.wait()
            for _ in range(number % 20):
                time.sleep(0)  # lets the other thread run: it ends sooner or later
            interrupt.inject()
            thread.join(10)
        assert hit == []
        assert outcomes == {"returned", "interrupted"}

    def test_before_the_call_nothing_arrives(self) -> None:
        """An early injection is delivered when the call begins."""
        interrupt = Interrupt()
        interrupt.inject()
        reached: list[str] = []
        with pytest.raises(StepInterrupted):
            call_interruptibly(interrupt, lambda: reached.append("never"))
        assert reached == []

    def test_it_is_no_exception(self) -> None:
        """`except Exception` does not catch it."""
        assert not issubclass(StepInterrupted, Exception)


class AtLine:
    """Injects an interrupt at one line event of `call_interruptibly` and of the `Interrupt`.

    Attributes:
        was_reached: whether there was such an event.
    """

    def __init__(self, interrupt: Interrupt, number: int) -> None:
        self._interrupt = interrupt
        self._left = number
        self.was_reached = False

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """Count the events; the exception arrives here, as if the line had raised it."""
        if not frame.f_code.co_filename.endswith(("calls/body.py", "calls/interrupt.py")):
            return None
        if event == "line":
            if self._left == 0 and not self.was_reached:
                self.was_reached = True
                self._interrupt.inject()
            self._left -= 1
        return self.trace


class TestAtEveryLine:
    """An interrupt that comes before any line of the engine that is not masked."""

    @pytest.mark.parametrize("how", ["returns", "raises", "masks"])
    def test_what_was_finished_counts_and_nothing_arrives_later(self, how: str) -> None:
        """Either the function did not finish, or its value is returned; then all is quiet."""
        number, reached = 0, True
        while reached:
            interrupt = Interrupt()
            at, finished = AtLine(interrupt, number), list[int]()
            ending, hit = in_new_thread(at, functools.partial(work, how, interrupt, finished))
            assert hit == []
            if finished and how != "raises":
                assert ending == [7], number
            elif finished:
                assert isinstance(ending[0], (KeyError, StepInterrupted))
            else:
                assert isinstance(ending[0], StepInterrupted)
            number, reached = number + 1, at.was_reached
        assert number > 10


def work(how: str, interrupt: Interrupt, finished: list[int]) -> int:
    """Act as a hook that is finished at its last line."""
    if how == "masks":
        with interrupt:
            pass
    finished.append(1)
    if how == "raises":
        raise KeyError
    return 7


def in_new_thread(at: AtLine, function: functools.partial[int]) -> tuple[list[Any], list[Any]]:
    """Call `function` on a new thread; return how it ended, and what arrived after that."""
    ending: list[Any] = []
    hit: list[BaseException] = []

    def run() -> None:
        sys.settrace(at.trace)
        try:
            ending.append(call_interruptibly(function.args[1], function))
        except BaseException as error:
            ending.append(error)
        try:
            for _ in range(50):
                time.sleep(0)
        except BaseException as error:
            hit.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    return ending, hit


def test_tracing_can_begin_after_an_interrupted_call() -> None:
    """CPython 3.11 hangs if an exception that was sent is withdrawn before tracing begins."""
    interrupt = Interrupt()
    interrupt_now = functools.partial(interrupt.inject)

    def run() -> None:
        with pytest.raises(StepInterrupted):
            call_interruptibly(interrupt, interrupt_now)
        sys.settrace(lambda frame, event, argument: None)
        interrupt.disarm()  # any function of Python
        sys.settrace(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
