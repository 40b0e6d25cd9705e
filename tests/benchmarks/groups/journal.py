"""The time that a journal takes.

A step with `exec` and `cleanup` makes two commits that must be on the disk. Its time with a journal
is divided by its time without one plus the time of two such commits, each of which writes one
sealed row to another file. The hooks of the steps make these commits, with and without the journal:
both sides meet the same disk, and both execute the engine's code after a wait for it, which takes
longer than without a wait. The time of a step runs from the end of a hook to the beginning of the
next step's hook. Each time is a median, because the disk may be busy with other programs. In the
row for comparison, the hooks of the step without a journal do nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_plan import GenericStep, Plan
from pytest_plan.engine.journal.schema import connect, create, execute, replace
from pytest_plan.engine.journal.seal import Key
from tests.benchmarks.table import Row, at_most

REPEATS, STEPS = 15, 100
MOST = 1.4
_PADDING = bytes(4 << 20)  # a commit that does not extend the log takes half as long


class _Hook:
    """A hook that makes a commit, and notes when it begins and ends.

    Args:
        commit: the commit.
    """

    def __init__(self, commit: Callable[[], object]) -> None:
        self._commit = commit
        self.begun: list[float] = []
        self.ended: list[float] = []

    def __call__(self) -> None:
        """Make the commit."""
        self.begun.append(time.perf_counter())
        self._commit()
        self.ended.append(time.perf_counter())

    def between(self) -> float:
        """Return the seconds between the hooks of two consecutive steps."""
        pairs = zip(self.begun[1:], self.ended[:-1], strict=True)
        return statistics.median(begun - ended for begun, ended in pairs)

    def inside(self) -> float:
        """Return the seconds that a commit takes."""
        pairs = zip(self.begun, self.ended, strict=True)
        return statistics.median(ended - begun for begun, ended in pairs)


def rows(_other: Path | None) -> Iterator[Row]:
    """Measure and yield the rows; nothing is compared with another checkout."""
    ratios, without_waits = [], []
    with tempfile.TemporaryDirectory() as name:
        for number in range(REPEATS):
            folder = Path(name, str(number))
            folder.mkdir()
            with _commits(folder / "journal.sqlite") as commit:
                ours, beside = _step(commit, folder / "journals")
                plain, alone = _step(commit)
                hot, _ = _step(lambda: None)
            commits = (beside + alone) / 2
            ratios.append(ours / (plain + commits))
            without_waits.append(ours / (hot + commits))
    what = "a step with `exec` and `cleanup`: with a journal / without one plus two commits"
    yield at_most(what, "x", ratios[1:], MOST)  # the first run imports modules
    what = "the same / without one, and without commits in its hooks, plus two commits"
    yield at_most(what, "x", without_waits[1:])


def _step(commit: Callable[[], object], journal: Path | None = None) -> tuple[float, float]:
    """Return how many seconds a step with its cleanup takes, and two commits."""
    exec, cleanup = _Hook(commit), _Hook(commit)
    plan = Plan(journal=journal)
    for _ in range(STEPS):
        plan.add_step(GenericStep(exec=exec, cleanup=cleanup))
    plan.execute()
    return exec.between() + cleanup.between(), exec.inside() + cleanup.inside()


@contextlib.contextmanager
def _commits(file: Path) -> Iterator[Callable[[], None]]:
    """Yield a function that makes a commit of one sealed row."""
    connection = connect(file, create(file, Key.of(os.environ)))
    sql, numbers = replace("environment"), itertools.count()

    def commit() -> None:
        number = next(numbers)
        connection.execute("BEGIN IMMEDIATE")
        execute(connection, sql, (f"step-{number}", json.dumps({"number": number})))
        connection.execute("COMMIT")

    with contextlib.closing(connection):
        commit()
        with Path(f"{file}-wal").open("ab") as log:
            log.write(_PADDING)
        yield commit
