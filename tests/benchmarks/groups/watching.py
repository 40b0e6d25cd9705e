"""Watching the programs of steps while tests run.

Tests need a step with five programs. Watched, these cost a look before each test; not watched, they
cost nothing. The programs are started without `ctx.start`, because the thread that copies their
logs works by the clock, which would blur the counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.benchmarks.instructions import THOUSAND, row
from tests.benchmarks.suite import Suite
from tests.benchmarks.table import Row

FEW, MANY = 10, 110  # tests
MOST = 1.01

_STEPS = """
import os, subprocess
import pytest
from pytest_plan.engine.processes.identity import identify
from pytest_plan.engine.shared.programs.watched import Kept

# valgrind does not know the call. The descriptor of a process that runs is not readable either.
os.pidfd_open = lambda pid: os.eventfd(0, os.EFD_CLOEXEC)

@pytest.mark.plan_step
def services(ctx):
    for _ in range(5):
        process = subprocess.Popen(["sleep", "600"])
        if {}:
            ctx._facts.programs.watch(ctx.step, Kept(identify(process.pid), ctx._log))
        ctx.defer(process.kill)
"""
_TESTS = """
import pytest

@pytest.mark.parametrize("number", range({}))
def test_nothing(number, services): pass
"""


def rows(other: Path | None) -> Iterator[Row]:
    """Count and yield the rows."""
    what = "each test that needs five programs which are watched"
    yield row(what, lambda root: _each(root, is_watched=True), other, scale=THOUSAND)
    what = "each such test: programs that are watched / programs that are not"
    yield row(what, _ratio, None, target=MOST, unit="x")


def _ratio(root: Path) -> float:
    return _each(root, is_watched=True) / _each(root, is_watched=False)


@cache
def _each(root: Path, *, is_watched: bool) -> float:
    """Return the number of instructions for each test after the first ones."""
    counts = [_run(root, tests, is_watched=is_watched) for tests in (FEW, MANY)]
    return (counts[1] - counts[0]) / (MANY - FEW)


def _run(root: Path, tests: int, *, is_watched: bool) -> int:
    files = {"conftest.py": _STEPS.format(is_watched), "test_nothing.py": _TESTS.format(tests)}
    with Suite(files, "pytest_plan") as suite:
        return suite.count(root=root)
