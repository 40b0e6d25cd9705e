"""Rows 36 to 45, 57, 58: the disk fails, the journal is damaged, cut or of somebody else."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_plan import GenericStep, Plan
from pytest_plan.engine.context import Context
from pytest_plan.engine.errors import JournalError
from pytest_plan.engine.journal import Journal
from pytest_plan.engine.recorded import read
from pytest_plan.engine.reference import References
from pytest_plan.engine.restore import Restorer
from tests.faults.aftermath import NO_REAPER, PLAIN, journal_of
from tests.faults.scenario import PATIENCE, Run, Stage, Story, Tally

REFERENCES = References(Path(__file__).parent)


def limited(size: int) -> Callable[[], None]:
    """Return what lets a process write no file beyond a size, without a signal."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit


def test_g1_a_disk_that_fails_at_the_nth_write_stops_provisioning(stage: Stage) -> None:
    """Rows 36, 37: what has begun is cleaned up from memory, the reason is in the report."""
    statuses = []

    def story(run: Run, size: int) -> Story:
        # Byte code that is cut off would break whoever comes next.
        plain = {"PYTHONDONTWRITEBYTECODE": "1"}
        run.start(*NO_REAPER, argv=PLAIN, preexec_fn=limited(size), env=plain)
        yield run.ended
        run._tally.faults += 1
        statuses.append(run.status)
        run.judge(internal_error=None)
        if run.status == 1:
            run.expect("cannot be written" in run.output(), "the reason is missing")
        run.expect(run.status in (0, 1, 4), f"exit status {run.status}")

    for size in range(8192, 60_000, 4096):
        stage.add(f"{size}", story, size)
    stage.play(2)
    assert 1 in statuses or 4 in statuses


@pytest.mark.parametrize("what", ["file", "folder"])
def test_g1_a_journal_that_goes_away_stops_provisioning(stage: Stage, what: str) -> None:
    """Rows 43, 44: noticed before the next step begins; what has begun is cleaned up."""

    def story(run: Run) -> Story:
        run.start(*NO_REAPER, faults={"db.exec": "hold"})
        yield run.reached("db.exec")
        file = journal_of(run)
        file.unlink() if what == "file" else shutil.rmtree(file.parent)
        run._tally.faults += 1
        run.release()
        yield run.ended
        run.judge(1)
        run.expect("web" not in run.notes("begin"), "a step began")
        run.expect("cannot be written" in run.output(), "the reason is missing")
        left = list((run.project / ".pytest_plan").glob("environments/*"))
        run.expect(not left, f"left: {left}")

    stage.add(what, story)
    stage.play()


def cleaned_up(run: Run) -> subprocess.CompletedProcess[str]:
    """Run `pytest --plan-cleanup` in the project."""
    argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-p", "no:xdist"]
    return subprocess.run(
        [*argv, "--plan-cleanup"], cwd=run.project, capture_output=True, text=True,
        env={**run._variables(), "FAULTS_OPTIONS": "{}"}, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "newer", "other"])
def test_g14_a_journal_that_cannot_be_read_is_kept(stage: Stage, damage: str) -> None:
    """Rows 41, 45: said and left as it is; nothing is cleaned up by guess; runs go on."""

    def story(run: Run) -> Story:
        run.start(*NO_REAPER, faults={"test.call": "kill"})
        yield run.ended
        file = journal_of(run)
        good = {path: path.read_bytes() for path in file.parent.glob("journal*")}
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            if damage in ("newer", "other"):
                name = "user_version" if damage == "newer" else "application_id"
                connection.execute(f"PRAGMA {name} = 99")
        content = file.read_bytes()
        if damage in ("empty", "garbage", "cut"):
            made = {"empty": b"", "garbage": b"x" * 9000, "cut": content[: len(content) // 2]}
            file.write_bytes(made[damage])
        before, history = file.read_bytes(), len(run.notes("cleanup"))
        run._tally.faults += 1
        done = cleaned_up(run)
        run.expect(done.returncode == 1, f"exit status {done.returncode}")
        run.expect("it is kept" in done.stdout, done.stdout)
        run.expect(file.read_bytes() == before, "it was changed")
        run.expect(len(run.notes("cleanup")) == history, "something was cleaned up by guess")
        for path, content in good.items():
            path.write_bytes(content)
        run.expect(cleaned_up(run).returncode == 0, "the good one is not cleaned up")
        run.expect(run.notes("cleanup") == ["web", "db", "net"], "it was not cleaned up once")

    stage.add(damage, story)
    stage.play()


class World:
    """What the steps of a plan have made in memory, and who undid it.

    Attributes:
        undone: what was undone, in order.
    """

    undone: list[tuple[str, int]]

    def __init__(self) -> None:
        self.undone = []


WORLD = World()


def undo(step: str, number: int) -> None:
    """Note that something is undone."""
    WORLD.undone.append((step, number))


def steps_of(shape: dict[str, tuple[int, bool]]) -> dict[str, GenericStep]:
    """Return steps: how many calls each defers, and whether it has a hook."""

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
    """Copies of a journal after each of its commits, and what had happened by then."""

    def __init__(self, folder: Path, shape: dict[str, tuple[int, bool]]) -> None:
        self.folder = folder
        self.copies: list[Path] = []
        self.done: list[int] = []  # how many were undone when the copy was made
        self._journal = Journal(folder / "journal", REFERENCES)
        write = self._journal._write

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

        self._journal._write = copying  # type: ignore[method-assign]
        plan = Plan()
        for name, step in steps_of(shape).items():
            plan.add_step(step, name=name)
        run = plan.begin(journal=self._journal)
        run.provision()
        run.clean_up()


class _Silent:
    """A request that is answered when the copy has been made."""

    def __init__(self, request: Any) -> None:
        self.statements = request.statements
        self.answer = None


shapes = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(st.integers(0, 2), st.booleans()), min_size=1
)


def _expected(file: Path) -> list[tuple[str, int]]:
    """Return what must be undone, read from the rows alone: an oracle of its own."""
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        steps = list(connection.execute("SELECT name, cleanup_hook, hook_done, outcome FROM step"))
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
def test_g9_any_prefix_of_a_journal_cleans_up_what_it_tells(
    tally: Tally, shape: dict[str, tuple[int, bool]]
) -> None:
    """Row 40: as if the power had failed after each commit; a second recovery does nothing."""
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
            # Nothing that was made before and is not undone may be missing.
            began = {name for name, _ in expected}
            assert {entry for entry in whole[done:] if entry[0] in began} <= set(expected) | {
                (name, number) for name, number in whole[done:] if number >= 0
            }
            WORLD.undone.clear()
            recover(copy, shape)
            assert WORLD.undone == expected
            recover(copy, shape)
            assert WORLD.undone == expected
            assert read(copy).due() == []
    finally:
        shutil.rmtree(folder)


def recover(file: Path, shape: dict[str, tuple[int, bool]]) -> None:
    """Clean up by a journal."""
    plan = Plan()
    for name, step in steps_of(shape).items():
        plan.add_step(step, name=name)
    recorded = read(file)
    restorer = Restorer(recorded, recorded.steps, plan.declared, REFERENCES)
    run = plan.revive(restorer, Journal(file, REFERENCES), listeners=[])
    run.clean_up(reason="recovery")


def test_g9_a_wal_cut_at_every_byte_is_an_earlier_moment(tally: Tally) -> None:
    """Row 40: torn writes lose the last commits whole; nothing is half there."""
    folder = Path(tempfile.mkdtemp(prefix="j"))
    try:
        prefixes = Prefixes(folder, {"a": (1, True), "b": (1, True)})
        last = prefixes.copies[-1]
        moments = [_rows(copy) for copy in prefixes.copies]
        content = Path(f"{last}-wal").read_bytes()
        torn = folder / "torn"
        for size in range(0, len(content), 97):
            tally.faults += 1
            shutil.copy(last, torn)
            Path(f"{torn}-wal").write_bytes(content[:size])
            Path(f"{torn}-shm").unlink(missing_ok=True)
            assert _rows(torn) in [([], []), *moments]
            read(torn)
    finally:
        shutil.rmtree(folder)


def test_g9_a_flipped_bit_in_the_wal_ends_it_there(tally: Tally) -> None:
    """Row 41: each frame has a checksum; what is after a broken one does not count."""
    folder = Path(tempfile.mkdtemp(prefix="j"))
    try:
        prefixes = Prefixes(folder, {"a": (1, True), "b": (1, True)})
        last = prefixes.copies[-1]
        moments = [_rows(copy) for copy in prefixes.copies]
        content = Path(f"{last}-wal").read_bytes()
        torn = folder / "torn"
        for position in range(0, len(content), 211):
            tally.faults += 1
            flipped = bytearray(content)
            flipped[position] ^= 1 << position % 8
            shutil.copy(last, torn)
            Path(f"{torn}-wal").write_bytes(flipped)
            Path(f"{torn}-shm").unlink(missing_ok=True)
            with contextlib.suppress(JournalError):
                read(torn)
                assert _rows(torn) in [([], []), *moments]
    finally:
        shutil.rmtree(folder)


def _rows(file: Path) -> tuple[list[Any], list[Any]]:
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return (
            list(connection.execute("SELECT * FROM step")),
            list(connection.execute("SELECT * FROM undo")),
        )


def test_g9_many_threads_that_write_state_lose_nothing(tally: Tally) -> None:
    """Row 58: 64 threads; what is on the disk at the end is what is in memory."""
    folder = Path(tempfile.mkdtemp(prefix="j"))
    try:
        journal = Journal(folder / "journal", REFERENCES)
        plan = Plan()

        def exec(state: Any) -> None:
            def write(number: int) -> None:
                for value in range(20):
                    state[f"own {number}"] = value
                    state[f"shared {value % 5}"] = number
                state.pop(f"own {number}")
                state[f"own {number}"] = "last"

            threads = [threading.Thread(target=write, args=(number,)) for number in range(64)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        plan.add_step(GenericStep(exec=exec), name="writer")
        run = plan.begin(journal=journal)
        run.provision()
        memory = {key: json.dumps(value) for key, value in plan.state.snapshot().items()}
        run.clean_up()
        tally.runs += 1
        assert read(folder / "journal").state == memory
        assert len(memory) == 64 + 5
    finally:
        shutil.rmtree(folder)


def test_g9_a_value_that_is_not_durable_is_named_when_it_is_needed(stage: Stage) -> None:
    """Row 57: set is no error; the cleanup that takes it is not called with something else."""
    conftest = """
import os
import threading
from tests.faults.fakes import note
from pytest_plan import GenericStep

def pytest_plan_configure(plan):
    def cleanup(value):
        note("cleanup", "net")

    def exec():
        note("begin", "net")
        return threading.Lock()

    plan.add_step(GenericStep(exec=exec, cleanup=cleanup), name="net")
"""

    def story(run: Run) -> Story:
        run.write("conftest.py", conftest)
        run.write("test_it.py", "import os\ndef test_dies(net):\n    os.kill(os.getpid(), 9)\n")
        run.start(*NO_REAPER)
        yield run.ended
        done = cleaned_up(run)
        run.expect(done.returncode == 1, f"exit status {done.returncode}")
        run.expect("a lock cannot be written as JSON" in done.stdout, done.stdout)
        run.expect(not run.notes("cleanup"), "it was called")

    stage.add("lock", story)
    stage.play()
