"""Rows 36, 37, 41, 43 to 45, 57 and 58: the disk fails, or the journal is lost or foreign."""

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

from pytest_plan import GenericStep, Plan
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.plan import begin
from tests.faults.harness.aftermath import NO_REAPER, PLAIN, journal_of
from tests.faults.harness.scenario import PATIENCE, Run, Stage, Story, Tally

REFERENCES = References(Path(__file__).parent)


def limited(size: int) -> Callable[[], None]:
    """Return a function that keeps a process from writing files beyond a size, without a signal."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit


def test_g1_a_disk_that_fails_at_the_nth_write_stops_provisioning(stage: Stage) -> None:
    """Rows 36, 37: begun steps are cleaned up from memory, and the report gives the reason."""
    statuses = []

    def story(run: Run, size: int) -> Story:
        # Truncated byte code would break the next process.
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


@pytest.mark.parametrize("what", ["file", "folder", "replaced"])
def test_g1_a_journal_that_disappears_is_written_again(stage: Stage, what: str) -> None:
    """Rows 43, 44: a lost journal is noticed before the next step and reported; steps go on."""

    def story(run: Run) -> Story:
        run.start(*NO_REAPER, faults={"db.exec": "hold"})
        yield run.reached("db.exec")
        file = journal_of(run)
        if what == "replaced":
            file.with_name("new").write_bytes(b"garbage" * 1000)
            file.with_name("new").replace(file)
        else:
            file.unlink() if what == "file" else shutil.rmtree(file.parent)
        run._tally.faults += 1
        run.release()
        yield run.ended
        run.judge(0)
        run.expect("web" in run.notes("begin"), "no further step began")
        run.expect("it has been written again" in run.output(), "the report is missing")
        left = list((run.project / ".pytest_plan").glob("environments/*/*"))
        set_aside = [path for path in left if ".replaced-" in path.name]
        run.expect(left == set_aside, f"left: {left}")
        run.expect(len(set_aside) == (what == "replaced"), f"set aside: {set_aside}")

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
    """Rows 41, 45: a broken journal is reported and left unchanged, and no cleanup is guessed."""

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
        run.expect("it is left unchanged" in done.stdout, done.stdout)
        run.expect(file.read_bytes() == before, "it was changed")
        run.expect(len(run.notes("cleanup")) == history, "something was cleaned up by guess")
        for path, content in good.items():
            path.write_bytes(content)
        run.expect(cleaned_up(run).returncode == 0, "the good one is not cleaned up")
        run.expect(run.notes("cleanup") == ["web", "db", "net"], "it was not cleaned up once")

    stage.add(damage, story)
    stage.play()


def test_g9_many_threads_that_write_state_lose_nothing(tally: Tally) -> None:
    """Row 58: after 64 threads have written, the State on disk equals the State in memory."""
    folder = Path(tempfile.mkdtemp(prefix="j"))
    try:
        journal = Journal(folder / "journal", REFERENCES, outlives=True)
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
        run = begin(plan, journal=journal)
        run.provision()
        memory = {key: json.dumps(value) for key, value in plan.state.snapshot().items()}
        run.clean_up()
        tally.runs += 1
        assert read(folder / "journal").state == memory
        assert len(memory) == 64 + 5
    finally:
        shutil.rmtree(folder)


def test_g9_a_value_that_is_not_durable_is_reported_when_it_is_needed(stage: Stage) -> None:
    """Row 57: a cleanup hook whose value cannot be written is reported and not called."""
    conftest = """
import os
import threading
from tests.faults.harness.fakes import note
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
        run.expect("a value of type 'lock' cannot be written as JSON" in done.stdout, done.stdout)
        run.expect(not run.notes("cleanup"), "it was called")

    stage.add("lock", story)
    stage.play()
