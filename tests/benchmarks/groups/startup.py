"""The plugin without steps.

A run of pytest loads `pytest_plan` and declares no step. It is compared with a run that loads an
empty plugin, because pytest searches all installed packages for the name after `-p`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

from tests.benchmarks.instructions import MILLION, row
from tests.benchmarks.suite import EMPTY_PLUGIN, Suite
from tests.benchmarks.table import Row

FEW, MANY = 1, 201  # tests
MOST_START = 1.05
MOST_TEST = 1.02

_TESTS = """
import pytest

@pytest.mark.parametrize("number", range({}))
def test_nothing(number): pass
"""


def rows(other: Path | None) -> Iterator[Row]:
    """Count and yield the rows."""
    what = "one test with `-p pytest_plan`"
    yield row(what, lambda root: _run(root, "pytest_plan"), other, scale=MILLION)
    what = "one test: with `-p pytest_plan` / with an empty plugin"
    ours, timeouts = (partial(_over_empty, name) for name in ("pytest_plan", "pytest_timeout"))
    yield row(what, ours, other, target=MOST_START, unit="x")
    what = "for comparison: with `-p pytest_timeout` / with an empty plugin"
    yield row(what, timeouts, other, unit="x")
    what = "one test: with `-p pytest_plan` / without a plugin"
    yield row(what, lambda root: _run(root, "pytest_plan") / _run(root), other, unit="x")
    what = "each further test: with `-p pytest_plan` / without a plugin"
    yield row(what, _further, other, target=MOST_TEST, unit="x")


def _over_empty(plugin: str, root: Path) -> float:
    return _run(root, plugin) / _run(root, EMPTY_PLUGIN)


def _further(root: Path) -> float:
    return _each(root, "pytest_plan") / _each(root)


def _each(root: Path, *plugins: str) -> float:
    """Return the number of instructions for each test after the first."""
    return (_run(root, *plugins, tests=MANY) - _run(root, *plugins)) / (MANY - FEW)


@cache
def _run(root: Path, *plugins: str, tests: int = FEW) -> int:
    with Suite({"test_nothing.py": _TESTS.format(tests)}, *plugins) as suite:
        return suite.count(root=root)
