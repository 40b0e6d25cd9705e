"""A stop that comes before any line of a step, or of the engine's code that calls it."""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.execution.run import Run
from pytest_plan.engine.model.outcomes import CleanupOutcome, Hook
from pytest_plan.engine.model.stop import Stop, StopKind
from pytest_plan.engine.plan import Plan, begin

CALLS = (
    "engine/calls/body.py",
    "engine/calls/call.py",
    "engine/calls/generator.py",
    "engine/calls/stopping/interrupt.py",
    "engine/calls/loop.py",
    "engine/calls/threads.py",
    "engine/processes/copies.py",
)
THREADS = {
    "plain": {"plan-it"},
    "generator": {"plan-it", "plan-it-generator"},
    "coroutine": {"plan-it", "plan-it-loop"},
    "async_generator": {"plan-it", "plan-it-loop"},
}
MANY = 100_000  # more lines than any run has


class World:
    """What the step of one run has made, and how far it came."""

    def __init__(self) -> None:
        self.things: list[str] = []
        # Appends and returns in one line without a call of Python code.
        self.finished: list[int] = []
        self.finish: Callable[[], Any] = functools.partial(self.finished.append, 1)
        self.undone = 0

    def make(self, ctx: Context, name: str) -> None:
        """Make a thing, whose undo is registered before."""
        ctx.defer(self.things.clear)
        self.things.append(name)

    def undo(self) -> None:
        """Undo all of it, as the code after a `yield`, or a `cleanup` hook."""
        self.undone += 1
        self.things.clear()


def plain(world: World) -> GenericStep:
    """Return a step that is a function; `cleanup` undoes it."""

    def exec(ctx: Context) -> Any:
        world.make(ctx, "one")
        ctx.check()
        for number in range(2):
            ctx.state["number"] = number
        world.make(ctx, "two")
        return world.finish()

    return GenericStep(exec=exec, cleanup=world.undo)


def generator(world: World) -> GenericStep:
    """Return a step that is a generator."""

    def exec(ctx: Context) -> Iterator[Any]:
        world.make(ctx, "one")
        ctx.check()
        for number in range(2):
            ctx.state["number"] = number
        yield world.finish()
        world.undo()

    return GenericStep(exec=exec)


def coroutine(world: World) -> GenericStep:
    """Return a step that is an async function, with a task that goes on; `cleanup` is async."""

    async def exec(ctx: Context) -> Any:
        world.make(ctx, "one")
        await asyncio.sleep(0)
        task = asyncio.create_task(asyncio.sleep(3600))
        ctx.state["number"] = 1
        await asyncio.wait([task], timeout=0)
        return world.finish()

    async def cleanup() -> None:
        await asyncio.sleep(0)
        world.undo()

    return GenericStep(exec=exec, cleanup=cleanup)


def async_generator(world: World) -> GenericStep:
    """Return a step that is an async generator."""

    async def exec(ctx: Context) -> AsyncIterator[Any]:
        world.make(ctx, "one")
        await asyncio.sleep(0)
        ctx.state["number"] = 1
        yield world.finish()
        await asyncio.sleep(0)
        world.undo()

    return GenericStep(exec=exec)


class StopAtLine:
    """Stops the step before the line event with this number.

    Args:
        run: the run.
        number: the number of the event, from 0.
        interrupts: whether the interrupt comes too, as it does one second after the stop.
    """

    def __init__(self, run: Run, number: int, *, interrupts: bool) -> None:
        self._run = run
        self._number = number
        self._interrupts = interrupts
        self._lock = threading.Lock()
        self.events = 0
        self.threads: set[str] = set()
        self.stopped_at: tuple[str, int] | None = None

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """Trace the functions of this file and those that call them."""
        if not frame.f_code.co_filename.endswith((*CALLS, __name__.rpartition(".")[2] + ".py")):
            return None
        if event == "line" and self._is_it():
            self.stopped_at = (frame.f_code.co_filename, frame.f_lineno)
            self._stop()
        return self.trace

    def _is_it(self) -> bool:
        active = self._run._executor._active.get("it")
        call = None if active is None else active.call
        if call is None or call.scope.hook is Hook.CLEANUP or call.prepare is None:
            return False
        if call.has_returned:
            return False  # what is left is to store the value, which has no tail and no undo
        with self._lock:
            number, self.events = self.events, self.events + 1
            self.threads.add(threading.current_thread().name)
        return number == self._number

    def _stop(self) -> None:
        call = self._run._executor._active["it"].call
        assert call is not None
        call.stop(Stop(StopKind.CANCEL, "stopped by the test"))
        if self._interrupts:
            call.interrupt()


def stopped(
    make: Callable[[World], GenericStep], number: int, *, interrupts: bool
) -> tuple[World, StopAtLine, Run]:
    """Run a plan of one step, and stop the step before one line."""
    world = World()
    run = begin(Plan().add_step(make(world), name="it"))
    stop = StopAtLine(run, number, interrupts=interrupts)
    before = threading.gettrace()
    threading.settrace(stop.trace)
    try:
        run.provision()
    finally:
        threading.settrace(before)
    run.clean_up()
    return world, stop, run


def check(world: World, stop: StopAtLine, run: Run) -> None:
    """Check that what was finished counts, and that nothing is left."""
    where = (stop.events, stop.stopped_at)
    step = run.step_runs["it"]
    assert world.things == [], where
    assert world.finished in ([], [1]), where
    assert world.undone == len(world.finished), where
    assert step.outcome.provides == bool(world.finished), (where, step.cause)
    assert step.cleanup.errors == (), where
    assert step.cleanup.outcome in (CleanupOutcome.SUCCEEDED, CleanupOutcome.NONE), where
    assert not step.loop.is_running, where


@pytest.mark.filterwarnings("ignore:coroutine 'sleep' was never awaited")  # interrupted before
@pytest.mark.skipif(sys.gettrace() is not None, reason="another trace function is in place")
@pytest.mark.parametrize("interrupts", [False, True], ids=["stop", "interrupt"])
@pytest.mark.parametrize("make", [plain, generator, coroutine, async_generator])
def test_what_was_finished_counts_and_nothing_is_left(
    make: Callable[[World], GenericStep], interrupts: bool
) -> None:
    """What was finished is undone exactly once by its tail or hook; all else by deferred calls."""
    run_once = functools.partial(stopped, make, interrupts=interrupts)
    counted = run_once(MANY)[1]
    lines = counted.events
    assert lines > 20
    assert counted.threads == THREADS[make.__name__]
    for number in range(lines):
        check(*run_once(number))
    gc.collect()  # so that the warning that is ignored here does not come in a later test
