"""Writing the State in a worker.

These figures count the controller's instructions for each value that a pytest-xdist worker writes.
They include the work of the journal, which continues after the worker has received its answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.benchmarks.groups.state import PLUGINS, SIZES, VALUES
from tests.benchmarks.instructions import MILLION, THOUSAND, row
from tests.benchmarks.suite import Suite
from tests.benchmarks.table import Row

COUNTS = {"small": (50, 450), "large": (5, 45)}  # number of writes in the short and long test
SCALES = {"small": THOUSAND, "large": MILLION}

_WRITES = """
import pytest
from conftest import VALUES


@pytest.mark.plan("values")
def test_writes(plan):
    for _ in range({count}):
        plan.state["{key}"] = VALUES["{key}"]
"""


def rows(other: Path | None) -> Iterator[Row]:
    """Count and yield the rows."""
    for key, what in SIZES.items():
        yield row(what, partial(_each, key), other, scale=SCALES[key])


def _each(key: str, root: Path) -> float:
    few, many = COUNTS[key]
    less, more = (_run(key, writes, root) for writes in (few, many))
    return (more - less) / (many - few)


def _run(key: str, writes: int, root: Path) -> int:
    test = _WRITES.format(key=key, count=writes)
    with Suite({"conftest.py": VALUES, "test_it.py": test}, *PLUGINS) as suite:
        return suite.count("-n", "1", root=root)
