"""Tests that begin before the last step has ended.

Each figure is a time of `pytest -n 2 --plan-overlap` divided by another time of the same suite,
both measured alternately. Steps and tests only sleep. Each figure is a median.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.suite import EMPTY_PLUGIN, Suite
from tests.benchmarks.table import Row, at_most

REPEATS = 5
STEPS = 8

_STEP = """
@pytest.mark.plan_step({options})
def {name}():
    time.sleep({seconds})
    return "{name}"
"""
_FIXTURE = """
@pytest.fixture(scope="session")
def {name}():
    return "{name}"
"""
_TESTS = """
@pytest.mark.parametrize("number", range({count}))
def test_{name}({takes}number):
    time.sleep({seconds})
"""
_HEAD = "import time\nimport pytest\n"


def rows(_other: Path | None) -> Iterator[Row]:
    """Measure and yield the rows; nothing is compared with another checkout."""
    names = [f"s{number}" for number in range(STEPS)]
    chain = [_STEP.format(name=name, options="", seconds=0.25) for name in names]
    mixed = [_tests("free", "", 300), *(_tests(name, f"{name}, ", 100 // STEPS) for name in names)]
    plain = [_FIXTURE.format(name=name) for name in names]
    with _suite(plain, mixed, EMPTY_PLUGIN) as bare, _suite(chain, mixed) as suite:
        pairs = [(suite.run(*_ON), bare.run(*_OFF)) for _ in range(REPEATS)]
        what = f"300 tests without needs and 100 that need one of {STEPS} steps, without the plugin"
        yield at_most(what, "x", [on / off for on, off in pairs], 1.10)
    slow = [
        _STEP.format(name="slow", options="needs=()", seconds=3),
        *(_STEP.format(name=name, options="needs=()", seconds=0.2) for name in names),
    ]
    first = [_tests("a_slow", "slow, ", 50), *(_tests(name, f"{name}, ", 25) for name in names)]
    yield from _on_and_off("a slow step is declared first, without the option", slow, first, 0.70)
    every = [_tests("every", f"{', '.join(names)}, ", 200)]
    yield from _on_and_off("each test needs each step, without the option", chain, every, 1.02)


_OFF = ("-n", "2")
_ON = (*_OFF, "--plan-overlap")


def _tests(name: str, takes: str, count: int) -> str:
    return _TESTS.format(name=name, takes=takes, count=count, seconds=0.03)


def _suite(steps: list[str], tests: list[str], plugin: str = "pytest_plan") -> Suite:
    files = {"conftest.py": "".join([_HEAD, *steps]), "test_it.py": "".join([_HEAD, *tests])}
    return Suite(files, "xdist", plugin)


def _on_and_off(what: str, steps: list[str], tests: list[str], target: float) -> Iterator[Row]:
    with _suite(steps, tests) as suite:
        ratios = [suite.run(*_ON) / suite.run(*_OFF) for _ in range(REPEATS)]
        yield at_most(what, "x", ratios, target)
