"""The controller of pytest-xdist while two workers run tests, in one stage and in two.

The counts are those of the controller alone. How many messages of workers it takes at a time
depends on the load of the machine, so that a count differs by about one percent between two runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.benchmarks.instructions import row
from tests.benchmarks.suite import Suite
from tests.benchmarks.table import Row

FEW, MANY = 100, 1100  # tests
MOST_TEST = 1.02
MOST_STAGES = 1.05

_STEPS = """
import pytest

@pytest.mark.plan_step
def app(): pass

@pytest.mark.plan_step(after_tests={})
def upgraded(app): pass
"""
_WITHOUT = """
from pytest_plan.plugin.session.controller import controller

controller.is_usable = lambda scheduler: False  # xdist's scheduler is used as it is
"""
_TESTS = """
import pytest

@pytest.mark.parametrize("number", range({0} // 2))
def test_before(number, app): pass

@pytest.mark.parametrize("number", range({0} // 2))
def test_after(number, upgraded): pass
"""


def rows(other: Path | None) -> Iterator[Row]:
    """Count and yield the rows."""
    what = "each further test in one stage / with pytest-xdist's own scheduler alone"
    yield row(what, _one_stage, None, target=MOST_TEST, unit="x")
    what = f"{MANY:,} tests in two stages / in one"
    yield row(what, _stages, None, target=MOST_STAGES, unit="x")


def _one_stage(root: Path) -> float:
    return _each(root, _STEPS.format(False)) / _each(root, _STEPS.format(False) + _WITHOUT)


def _each(root: Path, conftest: str) -> float:
    """Return the number of instructions for each test after the first ones."""
    counts = [_run(root, conftest, tests) for tests in (FEW, MANY)]
    return (counts[1] - counts[0]) / (MANY - FEW)


def _stages(root: Path) -> float:
    two, one = (_run(root, _STEPS.format(waits), MANY) for waits in (True, False))
    return two / one


@cache
def _run(root: Path, conftest: str, tests: int) -> int:
    files = {"conftest.py": conftest, "test_it.py": _TESTS.format(tests)}
    with Suite(files, "xdist", "pytest_plan") as suite:
        return suite.count("-n2", root=root)
