"""Rows 34 and 45: memory runs out during a write of the journal; a huge journal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine.support.no_threads import needs_limit
from tests.faults.harness.aftermath import (
    NO_REAPER,
    PLAIN,
    change,
    clean_up,
    deeds,
    environments,
    journal_of,
    judge,
)
from tests.faults.harness.scenario import SLACK, Run, Stage, Story

# Raises MemoryError in the n-th SQLite call of the writer, and in no other.
SCARCE = """
from pytest_plan.engine.journal.writing import writer

class Scarce:
    left = int(os.environ["SCARCE"])

    def __init__(self, connection):
        self._connection = connection

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, sql, *values):
        Scarce.left -= 1
        if Scarce.left == 0:
            note("scarce", sql.split()[0])
            raise MemoryError
        return self._connection.execute(sql, *values)

connect = writer.connect
writer.connect = lambda *sealed: Scarce(connect(*sealed))
"""
# Limits the memory of the process while a large value is written.
LIMITED = """
import resource
from pathlib import Path
from pytest_plan.engine.journal.writing import writer
from pytest_plan.engine.journal.schema import connect

class Limited:
    def __init__(self, connection):
        self._connection = connection

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, sql, *values):
        if len(str(values)) < {size}:
            return self._connection.execute(sql, *values)
        usual = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(os.environ["REST"]), usual[1]))
        try:
            return self._connection.execute(sql, *values)
        except BaseException as error:
            resource.setrlimit(resource.RLIMIT_AS, usual)
            note("scarce", type(error).__name__)
            raise
        finally:
            resource.setrlimit(resource.RLIMIT_AS, usual)

writer.connect = lambda *sealed: Limited(connect(*sealed))

@pytest.mark.plan_step(needs=["net"])
def large(state):
    state["large"] = "x" * {size}
"""
RESTS = (0, 4, 24, 48, 72, 104, 1_000)  # MiB
CALLS = 100  # more SQLite calls than the writer makes
LARGE = 24 << 20  # the size of a State value, in characters
VALUE, VALUES = 1 << 20, 100  # the size of each State value in bytes, and the number of values
TAIL = 64 << 10  # the size of the log that a step leaves in the journal, in bytes
HUGE = """\
import os
from pytest_plan import GenericStep
from tests.faults.harness.fakes import note

def fill(state):
    note("begin", "net")
    for number in range({values}):
        state[f"value {{number}}"] = chr(97 + number % 26) * {value}

def remove(state):
    note("cleanup", "net", len(state["value 99"]))

def pytest_plan_configure(plan):
    plan.add_step(GenericStep(exec=fill, cleanup=remove), name="net")
"""
DIES = "import os\ndef test_it(net):\n    os._exit(3)\n"
PASSES = "def test_it():\n    pass\n"
BOUND = 4 * VALUE * VALUES  # bytes more than for a small journal: text, values, margin
SECONDS = 20.0 * SLACK


def test_g1_memory_that_runs_out_in_a_write_breaks_nothing(stage: Stage) -> None:
    """Row 34: a MemoryError in any SQLite call stops the run, is reported, and loses no cleanup."""
    reached: list[int] = []

    def story(run: Run, number: int) -> Story:
        conftest = (run.project / "conftest.py").read_text()
        run.write("conftest.py", conftest + SCARCE)
        run.start(*NO_REAPER, "--plan-environment=disk", argv=PLAIN, env={"SCARCE": str(number)})
        yield run.ended
        if run.notes("scarce"):
            reached.append(number)
            run._tally.faults += 1
        run.judge()
        run.expect(run.status in (0, 1, 4), f"exit status {run.status}")
        said = "cannot be written: MemoryError" in run.output()
        run.expect(run.status == 0 or said, "the reason is missing")
        run.expect("Traceback" not in run.output(), "a traceback")
        before = deeds(run)
        if environments(run):
            run.expect(clean_up(run, env={"SCARCE": "0"}) == 0, "something is left")
        run.expect(deeds(run) == before, "something was cleaned up twice")

    for number in range(1, CALLS):
        stage.add(f"call {number}", story, number)
    stage.play(2)
    assert 30 < len(reached) < CALLS - 1


@needs_limit
def test_g1_a_system_without_memory_for_a_write_breaks_nothing(stage: Stage) -> None:
    """Row 34: under RLIMIT_AS the run fails with the reason and cleans up, or it passes."""
    failed: list[int] = []

    def story(run: Run, rest: int) -> Story:
        conftest = (run.project / "conftest.py").read_text()
        run.write("conftest.py", conftest + LIMITED.format(size=LARGE))
        run.write("test_large.py", "def test_it(large):\n    pass\n")
        run.start(*NO_REAPER, "--plan-environment=disk", argv=PLAIN, env={"REST": str(rest << 20)})
        yield run.ended
        if run.notes("scarce"):
            failed.append(rest)
            run._tally.faults += 1
        run.judge()
        output = run.output()
        run.expect(run.status == (1 if run.notes("scarce") else 0), f"exit status {run.status}")
        run.expect(run.status == 0 or "cannot be written: " in output, "the reason is missing")
        run.expect("Traceback" not in output, "a traceback")
        run.expect(not environments(run) or clean_up(run, env={"REST": "0"}) == 0, "not cleaned up")

    for rest in RESTS:
        stage.add(f"{rest} MiB", story, rest)
    stage.play(2)
    assert 0 < len(failed) < len(RESTS)


def peak(run: Run, *args: str) -> tuple[int, int, float]:
    """Run pytest; return its exit status, its peak memory in bytes, and its duration in seconds."""
    begun = time.monotonic()
    with (run.folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, *PLAIN, "-p", "no:xdist", *NO_REAPER, *args],
            cwd=run.project, env=run._variables(), stdout=said, stderr=said,
        )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024, time.monotonic() - begun


@pytest.mark.parametrize("args", [("--plan-cleanup",), ()], ids=["cleanup", "next run"])
def test_g7_a_huge_journal_takes_neither_minutes_nor_all_memory(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """Row 45: reading a journal with 100 MB of values takes bounded time and memory."""

    def story(run: Run) -> Story:
        run.write("conftest.py", HUGE.format(value=VALUE, values=VALUES))
        run.write("test_it.py", PASSES)
        _, usual, _ = peak(run, *args)
        run.write("test_it.py", DIES)
        run.start(*NO_REAPER)
        yield run.ended
        change(run, "UPDATE step SET log_tail = ?", "x" * TAIL)
        files = journal_of(run).parent.glob("journal.sqlite*")
        size = sum(file.stat().st_size for file in files)
        run.expect(size >= VALUE * VALUES, f"the journal has {size} bytes")
        run.write("test_it.py", PASSES)
        status, most, took = peak(run, *args)
        run._tally.faults += 1
        run.expect(status == 0, f"exit status {status}: {Path(run.folder / 'said').read_text()}")
        run.expect(most - usual < BOUND, f"{(most - usual) >> 20} MiB more than usual")
        run.expect(took < SECONDS, f"it took {took:.1f} s")
        run.expect(run.notes("cleanup") == [f"net {VALUE}"], f"{run.notes('cleanup')}")
        judge(run)

    stage.add("huge", story)
    stage.play()
