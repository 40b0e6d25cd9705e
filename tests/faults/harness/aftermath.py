"""Helpers for killed runs: what is left, how it is cleaned up, and what must hold afterward."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from tests.engine.support.journals import sealing
from tests.faults.harness import checker
from tests.faults.harness.scenario import NEEDS, PATIENCE, Run

NO_REAPER = ("-o", "plan_reaper=false")
PLAIN = ("-m", "pytest", "-p", "pytest_plan")  # in these runs warnings are not errors
QUIET = 0.3  # seconds without any process of a run


def environments(run: Run) -> list[Path]:
    """Return the folders of all existing environments."""
    folder = run.project / ".pytest_plan" / "environments"
    try:
        return list(folder.iterdir())
    except FileNotFoundError:  # also if it was removed just now
        return []


def journal_of(run: Run) -> Path:
    """Return the journal of the run's only environment."""
    (folder,) = environments(run)
    return folder / "journal.sqlite"


def over(run: Run) -> Callable[[], bool]:
    """Return a check for whether cleanup has ended: the run has no process, and gets no new one."""
    quiet_since = time.monotonic()

    def is_over() -> bool:
        # While a process executes another program, its environment cannot be read for a moment.
        nonlocal quiet_since
        if not run.ended() or run.processes():
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since > QUIET

    return is_over


def clean_up(
    run: Run, *args: str, env: dict[str, str] | None = None, under: Iterable[str] = ()
) -> int:
    """Run `pytest --plan-cleanup`, optionally under another program; return its exit status."""
    argv = [*under, sys.executable, *PLAIN, "-p", "no:xdist", "--plan-cleanup", *args]
    variables = {**run._variables(), "FAULTS_OPTIONS": "{}", **(env or {})}
    with (run.folder / "cleanup").open("ab") as output:
        return subprocess.run(
            argv, cwd=run.project, env=variables, check=False,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=PATIENCE,
        ).returncode  # fmt: skip


def says_how_to_go_on(run: Run) -> None:
    """Check that the output has the command that finishes the cleanup, with the run's options."""
    command = r"pytest -p pytest_plan( -[po] \S+)* --plan-cleanup"
    advice = f"^plan: cleanup is incomplete; to finish it: {command}$"
    said = re.search(advice, run.output(), re.MULTILINE)
    run.expect(said is not None, "nothing says how to go on")


def cleanup_said(run: Run) -> str:
    """Return the output of `clean_up` so far."""
    return (run.folder / "cleanup").read_text()


def judge(run: Run, *, most: int = 1, left: tuple[str, ...] = ()) -> None:
    """Check what must hold after another process has cleaned up after a run.

    Args:
        run: the run.
        most: the highest number of owners that may have begun a cleanup.
        left: steps that could not be cleaned up.
    """
    history = [line for line in run.history if line.what != "exit"]
    begun = {line.words[0] for line in history if line.what == "begin"}
    for step in sorted(begun - set(left)):
        count = [line.words[0] for line in history if line.what == "cleanup"].count(step)
        run.expect(1 <= count <= most, f"{step} began, and was cleaned up {count} times")
    if most == 1 and not left:
        run.wrong += checker.violations(history, NEEDS)
    run.expect(not run.processes(), f"processes are left: {run.processes()}")
    if not left:
        run.expect(not environments(run), f"left: {environments(run)}")
    made = [path.name for path in run._temporary.iterdir() if path.name.startswith("plan-")]
    run.expect(not made, f"temporary folders are left: {made}")


def deeds(run: Run) -> list[checker.Line]:
    """Return what the steps did so far, without the starts and exits of pytest."""
    return [line for line in run.history if line.what in ("begin", "cleanup", "undo", "defer")]


def nothing_more(run: Run) -> None:
    """Check that another cleanup finds nothing to do."""
    before = deeds(run)
    run.expect(clean_up(run) == 0, "something is left")
    run.expect(deeds(run) == before, "a further cleanup did something")


def reaper_of(run: Run) -> psutil.Process:
    """Return the reaper of a run."""
    for child in psutil.Process(run.pid).children():
        if any("watchdog.py" in part for part in child.cmdline()):
            return child
    raise AssertionError("there is no reaper")


def change(run: Run, sql: str, *values: str) -> None:
    """Change the journal of a dead run with a SQL statement."""
    with sealing(journal_of(run)) as connection:
        connection.execute(sql, values)


def orphaned(run: Run) -> Callable[[], bool]:
    """Start a run without a reaper that kills itself; return a check for whether it has ended."""
    run.start(*NO_REAPER, faults={"test.call": "kill"})
    return run.ended


def sleepers(run: Run) -> list[psutil.Process]:
    """Return the live processes that the run's steps started."""
    return [process for process in psutil.process_iter() if run._is_ours(process)]
