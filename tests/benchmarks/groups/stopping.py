"""Stopping.

These figures show how many runs kept the promised time. Unless the row says otherwise, the time
runs from the signal, the call of `cancel()` or the end of the limit until the first `cleanup` hook
begins.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil

from pytest_plan import Context, GenericStep, Plan, PlanError
from tests.benchmarks.table import Row, within
from tests.faults.harness.scenario import Run, Tally

_T = TypeVar("_T")

REPEATS, RUNS = 50, 5  # repetitions in this process; runs of pytest
SETTLE = 0.02  # seconds until the step sleeps
LIMIT = 2.0  # seconds
PATIENCE = 60.0  # maximum seconds to wait for something that must happen

_TREE = """\
from tests.faults.harness.fakes import note
from pytest_plan import GenericStep

def start(ctx):
    ctx.start(["sleep", "600"])

def pytest_plan_configure(plan):
    plan.add_step(GenericStep(exec=start), name="server", needs=())
    made = GenericStep(exec=lambda: None, cleanup=lambda: note("cleanup", "made"))
    plan.add_step(made, name="made", needs=())
"""
_HOLDS = """\
from tests.faults.harness.fakes import at

def test_it(plan):
    at("test.call")
"""


def rows(_other: Path | None) -> Iterator[Row]:
    """Measure and yield the rows; nothing is compared with another checkout."""
    for what, measure in (("`cancel()`", _cancel), ("the limit", _limit)):
        samples = [measure() for _ in range(REPEATS)]
        yield within(f"{what}, a step waits in `ctx.sleep`", samples, 0.050)
    what = "SIGINT to the controller alone, `-n 2`, a test sleeps"
    yield within(what, _times(_interrupt), 1.0)
    yield within("the limit, solo, a test sleeps", _times(_limit_of_test), 2.5)
    what = "the limit, `-n 2`, a test sleeps"
    yield within(what, _times(lambda run: _limit_of_test(run, "-n", "2")), 2.5)
    trees, cleanups = zip(*_times(_kill), strict=True)
    yield within("SIGKILL of pytest, until its process tree has ended", trees, 0.5)
    yield within("SIGKILL of pytest", cleanups, 3.0)


def _cancel() -> float:
    """Return the seconds from `cancel()` to the first cleanup."""
    asleep = threading.Event()
    begun = 0.0

    def cancel() -> None:
        nonlocal begun
        asleep.wait()
        time.sleep(SETTLE)
        begun = time.monotonic()
        plan.cancel()

    plan, cleaned = _blocked(Plan(), lambda _ctx: asleep.set())
    other = threading.Thread(target=cancel)
    other.start()
    with contextlib.suppress(PlanError):
        plan.execute()
    other.join()
    return cleaned[0] - begun


def _limit() -> float:
    """Return the seconds from the end of the limit to the first cleanup."""
    deadlines: list[float] = []

    def begin(ctx: Context) -> None:
        assert ctx.deadline is not None
        deadlines.append(ctx.deadline)

    plan, cleaned = _blocked(Plan(SETTLE), begin)
    with contextlib.suppress(PlanError):
        plan.execute()
    return cleaned[0] - deadlines[0]


def _blocked(plan: Plan, begin: Callable[[Context], None]) -> tuple[Plan, list[float]]:
    """Add a step that calls `begin` and sleeps; return the plan and a list.

    The `cleanup` hook appends the time of its call to the list.
    """
    cleaned: list[float] = []

    def block(ctx: Context) -> None:
        begin(ctx)
        ctx.sleep("1h")

    def cleanup() -> None:
        cleaned.append(time.monotonic())

    plan.add_step(GenericStep(exec=block, cleanup=cleanup), cleanup_when="attempted")
    return plan, cleaned


def _interrupt(run: Run) -> float:
    run.start("-n", "2", faults={"test.call": "sleep"})
    _wait(run.reached("test.call"))
    run.signal(signal.SIGINT)
    _wait(run.ended)
    return run.time_of("cleanup") - run.moved


def _limit_of_test(run: Run, *options: str) -> float:
    run.start(f"--plan-limit={LIMIT}s", *options, faults={"test.call": "sleep"})
    _wait(run.ended)
    return run.time_of("cleanup") - run.time_of("begin") - LIMIT


def _kill(run: Run) -> tuple[float, float]:
    """Return the seconds from SIGKILL to the end of the process tree, and to the cleanup."""
    run.write("conftest.py", _TREE)
    run.write("test_it.py", _HOLDS)
    run.start(faults={"test.call": "hold"})
    _wait(run.reached("test.call"))
    (tree,) = [one for one in psutil.Process(run.pid).children() if one.name() == "sleep"]
    run.signal(signal.SIGKILL)
    _wait(lambda: not tree.is_running() or tree.status() == psutil.STATUS_ZOMBIE)
    gone = time.monotonic() - run.moved
    _wait(lambda: run.notes("cleanup"))
    began = run.time_of("cleanup") - run.moved
    run.ended()
    _wait(lambda: not run.processes())
    return gone, began


def _times(measure: Callable[[Run], _T]) -> list[_T]:
    times = []
    for _ in range(RUNS):
        run = Run("benchmark", Tally())
        try:
            times.append(measure(run))
        finally:
            run.close()
    return times


def _wait(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.002)
