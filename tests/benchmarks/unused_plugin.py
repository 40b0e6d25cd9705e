"""What the plugin costs a run of pytest without steps: whole processes, with it and without."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.measure import Row, interleave
from tests.benchmarks.suite import Suite

START_REPEATS = 41
TESTS = 5_000
TESTS_REPEATS = 15
MILLI = 1e3
TARGET_MILLISECONDS = 15.0
TARGET_RATIO = 1.02

_ONE_TEST = "def test_nothing(): pass\n"
_MANY_TESTS = f"""
import pytest

@pytest.mark.parametrize("number", range({TESTS}))
def test_nothing(number): pass
"""


def rows() -> Iterator[Row]:
    """Measure, and return the lines of the table."""
    with_plugin, without = _compare(_ONE_TEST, START_REPEATS)
    more = [(a - b) * MILLI for a, b in zip(with_plugin, without, strict=True)]
    yield Row("plugin loaded, no step: start-up, more", "ms", more, TARGET_MILLISECONDS)
    yield Row("beside it: the whole run without", "ms", [one * MILLI for one in without])
    with_plugin, without = _compare(_MANY_TESTS, TESTS_REPEATS)
    ratios = [a / b for a, b in zip(with_plugin, without, strict=True)]
    yield Row(f"plugin loaded, no step: {TESTS:,} trivial tests", "x", ratios, TARGET_RATIO)
    yield Row("beside it: the whole run without", "ms", [one * MILLI for one in without])


def _compare(source: str, repeats: int) -> list[list[float]]:
    suite = Suite({"test_benchmark.py": source})
    try:
        return interleave([lambda: suite.run("-p", "pytest_plan"), suite.run], repeats)
    finally:
        suite.close()
