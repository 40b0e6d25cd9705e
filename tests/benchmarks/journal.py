"""What the journal and the reaper cost, and how soon somebody cleans up after SIGKILL."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from pytest_plan import GenericStep, Plan
from pytest_plan.engine.environments.reaper import Reaper
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.journal.schema import connect, insert
from pytest_plan.engine.plan import begin
from tests.benchmarks.measure import Row, interleave, seconds
from tests.faults.harness.scenario import Run, Tally

STEPS = 200
COMMITS = 2.5  # that a step may cost, of this disk
SLACK_MS = 0.3
PAIRS = 25  # a disk is not the same from one second to the next
REPEATS = 9
KILLS = 5
MILLI = 1e3
MANY_STEPS, MANY_VALUES = 10_000, 100_000
_LONGEST = 60.0


def rows() -> Iterator[Row]:
    """Measure, and return the lines of the table."""
    folder = Path(tempfile.mkdtemp(prefix="journal-", dir=Path.cwd()))  # a disk, not memory
    try:
        yield from _steps(folder)
        yield from _reaper(folder)
        yield from _large(folder)
    finally:
        shutil.rmtree(folder)
    yield from _killed()


def _steps(folder: Path) -> Iterator[Row]:
    commit, step = interleave([lambda: _commit(folder), lambda: _step(folder)], PAIRS)
    yield Row("a durable SQLite commit on this disk", "ms", commit)
    beside = [one / (COMMITS * other + SLACK_MS) for one, other in zip(step, commit, strict=True)]
    yield Row(f"engine with a journal, per empty step of {STEPS}", "ms", step)
    what = f"the same / ({COMMITS} such commits measured beside it + {SLACK_MS} ms)"
    yield Row(what, "x", beside, 1.0)


def _commit(folder: Path) -> float:
    file = folder / "commits"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for sql in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"):
            connection.execute(sql)
        connection.execute("CREATE TABLE IF NOT EXISTS t(a)")

        def commits() -> None:
            for number in range(STEPS):
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("INSERT INTO t VALUES (?)", (number,))
                connection.execute("COMMIT")

        return seconds(commits) / STEPS * MILLI


def _step(folder: Path) -> float:
    file = folder / "journal"
    for left in folder.glob("journal*"):
        left.unlink()
    plan = Plan()
    for _ in range(STEPS):
        plan.add_step(GenericStep(exec=_nothing, cleanup=_nothing))
    run = begin(plan, journal=Journal(file, References(folder)))

    def execute() -> None:
        run.provision()
        run.clean_up()

    return seconds(execute) / STEPS * MILLI


def _nothing() -> None:
    """Do nothing."""


def _reaper(folder: Path) -> Iterator[Row]:
    starts, memory = [], []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        reaper = Reaper(folder / "journal", ["true"], dict(os.environ), folder / "log")
        starts.append((time.perf_counter() - begun) * MILLI)
        memory.append(_settled_memory(reaper.pid))
        reaper.stop()
    yield Row("the reaper: what its start takes from the run", "ms", starts, 30.0)
    yield Row("the reaper: its own memory while it waits", "MB", memory, 20.0)


def _settled_memory(pid: int) -> float:
    """Return the memory of a process that has come to rest."""
    process, before = psutil.Process(pid), -1.0
    while (used := process.memory_full_info().uss / 1e6) != before:
        before = used
        time.sleep(0.1)
    return used


def _large(folder: Path) -> Iterator[Row]:
    file = folder / "large"
    Journal(file, References(folder)).close()
    text = json.dumps("x" * 100)
    with contextlib.closing(connect(file)) as connection:
        connection.execute("BEGIN")
        steps = [
            (f"s{number}", number, "[]", "[]", 1, "succeeded", "", "succeeded", number, "",
             "none", 0, 0)
            for number in range(MANY_STEPS)
        ]  # fmt: skip
        connection.executemany(insert("step"), steps)
        values = [(f"k{number}", text, None) for number in range(MANY_VALUES)]
        connection.executemany(insert("state"), values)
        connection.execute("COMMIT")
    (samples,) = interleave([lambda: seconds(lambda: read(file))], REPEATS)
    what = f"a journal of {MANY_STEPS:,} steps and {MANY_VALUES:,} values of State: read"
    yield Row(what, "s", samples, 1.0)


def _killed() -> Iterator[Row]:
    trees, cleanups = [], []
    for _ in range(KILLS):
        tree, cleanup = _kill()
        trees.append(tree)
        cleanups.append(cleanup)
    yield Row("SIGKILL of pytest until its process tree is gone", "s", trees, 0.5)
    yield Row("SIGKILL of pytest until the first cleanup begins", "s", cleanups, 3.0)


_CONFTEST = """\
from tests.faults.harness.fakes import note
from pytest_plan import GenericStep

def start(ctx):
    ctx.start(["sleep", "600"])

def pytest_plan_configure(plan):
    # Nothing needs the server any more when its owner is dead; the other has a hook.
    plan.add_step(GenericStep(exec=start), name="server", needs=())
    plan.add_step(
        GenericStep(exec=lambda: None, cleanup=lambda: note("cleanup", "made")), name="made",
        needs=(),
    )
"""
_TESTS = """\
from tests.faults.harness.fakes import at

def test_it(plan):
    at("test.call")
"""


def _kill() -> tuple[float, float]:
    """Return the seconds from SIGKILL until the tree is gone, and until cleanup begins."""
    run = Run("killed", Tally())
    try:
        run.write("conftest.py", _CONFTEST)
        run.write("test_it.py", _TESTS)
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
    finally:
        run.close()


def _wait(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _LONGEST
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.002)
