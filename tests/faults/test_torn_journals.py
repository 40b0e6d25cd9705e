"""Rows 40 and 41: truncated journals, and journals with flipped bits."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_plan import GenericStep, Plan
from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.execution.run import revive
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.plan import begin, definition_of
from tests.faults.harness.scenario import Tally

REFERENCES = References(Path(__file__).parent)
KEY = Key("70" * 32)  # each byte of a journal is one read


class World:
    """What the steps of a plan have undone, in memory.

    Attributes:
        undone: the names of the steps and the numbers of their calls, in order.
    """

    undone: list[tuple[str, int]]

    def __init__(self) -> None:
        self.undone = []


WORLD = World()


def undo(step: str, number: int) -> None:
    """Record that a call was undone."""
    WORLD.undone.append((step, number))


def steps_of(shape: dict[str, tuple[int, bool]]) -> dict[str, GenericStep]:
    """Return steps, given how many calls each defers and whether it has a cleanup hook."""

    def make(count: int) -> Callable[[Context], None]:
        def exec(ctx: Context) -> None:
            for number in range(count):
                ctx.defer(undo, ctx.step, number)

        return exec

    def clean(ctx: Context) -> None:
        undo(ctx.step, -1)

    return {
        name: GenericStep(exec=make(count), cleanup=clean if hook else None)
        for name, (count, hook) in shape.items()
    }


class Prefixes:
    """Copies of a journal after each of its commits."""

    def __init__(self, folder: Path, shape: dict[str, tuple[int, bool]]) -> None:
        self.folder = folder
        self.copies: list[Path] = []
        self.done: list[int] = []  # number of calls that were undone when each copy was made
        self._journal = Journal(folder / "journal", REFERENCES, key=KEY)
        write = self._journal._writer._write

        def copying(connection: sqlite3.Connection, batch: Any) -> None:
            done = len(WORLD.undone)
            silent: Any = [_Silent(request) for request in batch]
            write(connection, silent)
            copy = folder / f"copy{len(self.copies)}"
            for suffix in ("", "-wal"):
                if (source := Path(f"{self._journal.file}{suffix}")).exists():
                    shutil.copy(source, f"{copy}{suffix}")
            self.copies.append(copy)
            self.done.append(done)
            for request in batch:
                if request.answer is not None:
                    request.answer.put(None)

        self._journal._writer._write = copying  # type: ignore[method-assign]
        plan = Plan()
        for name, step in steps_of(shape).items():
            plan.add_step(step, name=name)
        run = begin(plan, journal=self._journal)
        run.provision()
        run.clean_up()


class _Silent:
    """A request without an answer; the original is answered once the copy exists."""

    def __init__(self, request: Any) -> None:
        self.statements = request.statements
        self.answer = None


shapes = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(st.integers(0, 2), st.booleans()), min_size=1
)


def _expected(file: Path) -> list[tuple[str, int]]:
    """Return what must be undone, read from the rows alone, independently of the reader."""
    order = "SELECT name, cleanup_hook, hook_done, outcome FROM step ORDER BY number"
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        steps = list(connection.execute(order))
        undos = list(connection.execute("SELECT step, data FROM undo WHERE NOT done"))
    expected = []
    for name, hook, hook_done, outcome in reversed(steps):
        if hook and not hook_done and outcome in ("running", "succeeded"):
            expected.append((name, -1))
        made = [json.loads(json.loads(data)[1])[0] for step, data in undos if step == name]
        expected += [(step, number) for step, number in reversed(made)]
    return expected


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(shapes)
def test_g9_any_prefix_of_a_journal_cleans_up_what_it_records(
    tally: Tally, shape: dict[str, tuple[int, bool]]
) -> None:
    """Row 40: if power fails after any commit, recovery undoes exactly what is due, and once."""
    folder = Path(tempfile.mkdtemp(prefix="j"))
    try:
        WORLD.undone.clear()
        prefixes = Prefixes(folder, shape)
        whole = list(WORLD.undone)
        order = [name for name in reversed(shape)]
        assert [name for name, _ in whole] == sorted((name for name, _ in whole), key=order.index)
        for copy, done in zip(prefixes.copies, prefixes.done, strict=True):
            tally.runs += 1
            tally.faults += 1
            expected = _expected(copy)
            # Whatever was deferred earlier and not undone must be expected.
            began = {name for name, _ in expected}
            assert {entry for entry in whole[done:] if entry[0] in began} <= set(expected) | {
                (name, number) for name, number in whole[done:] if number >= 0
            }
            WORLD.undone.clear()
            recover(copy, shape)
            assert WORLD.undone == expected
            recover(copy, shape)
            assert WORLD.undone == expected
            assert read(copy, KEY).due() == []
    finally:
        shutil.rmtree(folder)


def recover(file: Path, shape: dict[str, tuple[int, bool]]) -> None:
    """Clean up with a journal."""
    plan = Plan()
    for name, step in steps_of(shape).items():
        plan.add_step(step, name=name)
    recorded = read(file, KEY)
    restorer = Restorer(recorded, recorded.steps, definition_of(plan).steps, REFERENCES)
    options = definition_of(plan).options
    journal = Journal(file, REFERENCES, key=KEY)
    run = revive(restorer, options, journal, clock=SystemClock(), listeners=[])
    run.clean_up(reason="recovery")


class Log:
    """The write-ahead log of a run that was killed.

    Attributes:
        content: its bytes.
        moments: the journal's rows before the first commit and after each commit.
    """

    def __init__(self, folder: Path) -> None:
        prefixes = Prefixes(folder, {"a": (1, True), "b": (1, True)})
        self._merged = prefixes.copies[-1]
        self._torn = folder / "torn"
        self.content = Path(f"{self._merged}-wal").read_bytes()
        self.moments = [([], []), *map(_rows, prefixes.copies)]

    def journal(self, content: bytes | bytearray) -> Path:
        """Return a journal whose log has this content."""
        shutil.copy(self._merged, self._torn)
        Path(f"{self._torn}-wal").write_bytes(content)
        Path(f"{self._torn}-shm").unlink(missing_ok=True)
        return self._torn


def test_g9_a_truncated_log_is_an_earlier_state(tally: Tally) -> None:
    """Row 40: a truncated log yields the state after an earlier commit, never half of one."""
    folder = Path(tempfile.mkdtemp(prefix="j"))
    try:
        log = Log(folder)
        for size in range(0, len(log.content), 97):
            tally.faults += 1
            torn = log.journal(log.content[:size])
            assert _rows(torn) in log.moments
            read(torn, KEY)
    finally:
        shutil.rmtree(folder)


def test_g9_a_flipped_bit_in_the_log_is_an_earlier_state(tally: Tally) -> None:
    """Row 41: each frame has a checksum, so only the commits before the flipped bit count."""
    folder = Path(tempfile.mkdtemp(prefix="j"))
    try:
        log = Log(folder)
        for position in range(0, len(log.content), 211):
            tally.faults += 1
            flipped = bytearray(log.content)
            flipped[position] ^= 1 << position % 8
            torn = log.journal(flipped)
            with contextlib.suppress(JournalError):
                read(torn, KEY)
                assert _rows(torn) in log.moments
    finally:
        shutil.rmtree(folder)


def test_g9_a_flipped_bit_in_the_merged_file_is_harmless_or_detected(tally: Tally) -> None:
    """Row 41: a flipped bit changes nothing or makes the journal unreadable."""
    folder = Path(tempfile.mkdtemp(prefix="j"))
    try:
        WORLD.undone.clear()
        prefixes = Prefixes(folder, {name: (2, True) for name in "abcd"})
        file = prefixes.copies[prefixes.done.count(0) - 1]  # the last one before the first undo
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        whole, content = read(file, KEY), file.read_bytes()
        refusals = 0
        for position in range(len(content)):
            tally.faults += 1
            flipped = bytearray(content)
            flipped[position] ^= 1 << position % 8
            file.write_bytes(flipped)
            try:
                assert read(file, KEY) == whole
            except JournalError:
                refusals += 1
        assert len(whole.due()) == 4
        assert refusals > 4
    finally:
        shutil.rmtree(folder)


def _rows(file: Path) -> tuple[list[Any], list[Any]]:
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return (
            list(connection.execute("SELECT * FROM step")),
            list(connection.execute("SELECT * FROM undo")),
        )
