"""Empty steps.

These figures show the engine's own work for a step whose hooks do nothing, in a script without
pytest. To get the figure for one step, the difference between a long and a short plan is divided by
the difference in their number of steps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

from tests.benchmarks import instructions
from tests.benchmarks.instructions import THOUSAND, Counts, row
from tests.benchmarks.table import Row

FEW, MANY = 50, 450
SHORT, LONG = 400, 2_000
NOT_RUN, RUN, WITH_JOURNAL = "add", "run", "journal"
_KINDS = {"plain": "`exec`", "cleanup": "`exec` and `cleanup`", "generator": "a generator"}
_TARGETS = {"plain": 400, "cleanup": 580}  # thousands of instructions
_DEFERS = {"defer": "a deferred call that another process can make"}
_FLUSHES = {"plain": 0, "generator": 1, "defer": 2, "cleanup": 2}
_ROUNDING = 0.02  # a plan flushes a few times more than its steps do

_SCRIPT = """
import shutil
import sys

from pytest_plan import GenericStep, Plan


def nothing():
    pass


def deferring(ctx):
    ctx.defer(shutil.rmtree, "/nowhere", ignore_errors=True)


def generator():
    yield


kind, count, mode = sys.argv[1:]
hooks = {
    "plain": {"exec": nothing},
    "cleanup": {"exec": nothing, "cleanup": nothing},
    "generator": {"exec": generator},
    "defer": {"exec": deferring},
}[kind]
plan = Plan(journal="journals" if mode == "journal" else None)
for _ in range(int(count)):
    plan.add_step(GenericStep(**hooks))
if mode != "add":
    plan.execute()
"""


def rows(other: Path | None) -> Iterator[Row]:
    """Count and yield the rows."""
    for kind, hooks in _KINDS.items():
        what, target = f"`add_step()` and `execute()`, a step with {hooks}", _TARGETS.get(kind)
        yield row(what, partial(_each, kind, RUN), other, target=target, scale=THOUSAND)
    what = "`add_step()` alone, a step with `exec`"
    yield row(what, partial(_each, "plain", NOT_RUN), other, scale=THOUSAND)
    what = f"the same step in a plan of {LONG:,} / in a plan of {SHORT:,}"
    yield row(what, _growth, other, target=1.3, unit="x")
    what = "a step with `exec` and `cleanup`: with a journal / without"
    yield row(what, _journal, other, unit="x")
    for kind, hooks in {**_KINDS, **_DEFERS}.items():
        what = f"flushes to the disk for a step with {hooks}, with a journal"
        most = _FLUSHES[kind] + _ROUNDING
        yield row(what, partial(_flushes, kind), other, target=most, unit="`fdatasync`")


def _each(kind: str, mode: str, root: Path) -> float:
    less, more = (_counts(root, kind, steps, mode) for steps in (FEW, MANY))
    return (more.instructions - less.instructions) / (MANY - FEW)


def _growth(root: Path) -> float:
    start = _counts(root, "plain", 0, RUN).instructions
    short, long = (
        (_counts(root, "plain", steps, RUN).instructions - start) / steps for steps in (SHORT, LONG)
    )
    return long / short


def _journal(root: Path) -> float:
    return _each("cleanup", WITH_JOURNAL, root) / _each("cleanup", RUN, root)


def _flushes(kind: str, root: Path) -> float:
    less, more = (_counts(root, kind, steps, WITH_JOURNAL) for steps in (FEW, MANY))
    return (more.flushes - less.flushes) / (MANY - FEW)


@cache
def _counts(root: Path, kind: str, steps: int, mode: str) -> Counts:
    with tempfile.TemporaryDirectory() as name:
        arguments = ["-c", _SCRIPT, kind, str(steps), mode]
        return instructions.count(arguments, Path(name), instructions.variables(root))
