"""The function `run_once`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_plan import PlanDefinitionError
from pytest_plan.steps import run_once
from tests.steps.running import LONGEST, cause_of, run

# Its step runs a command that counts its runs, creates a file at once, and then takes a while.
SCRIPT = """
import sys
from pytest_plan import GenericStep, Plan
from pytest_plan.steps import run_once

command = ["sh", "-c", "echo run >>runs; touch made; sleep " + sys.argv[1]]
plan = Plan()
plan.add_step(GenericStep(exec=lambda ctx: run_once(ctx, command, creates="made")), name="it")
plan.execute()
"""


def counted(folder: Path, *more: str) -> list[str]:
    """Return a command that counts its runs in the file `runs`."""
    return ["sh", "-c", "; ".join([f"cd {folder}", "echo run >>runs", *more])]


def runs(folder: Path) -> int:
    """Return how often the command was run."""
    file = folder / "runs"
    return len(file.read_text().split()) if file.exists() else 0


@pytest.mark.parametrize("make", ["touch made", "mkdir made", "true"])
def test_a_command_runs_once(tmp_path: Path, make: str) -> None:
    """What it creates is a file or a folder, or else an empty file is created."""
    made, command = tmp_path / "made", counted(tmp_path, make)
    assert run(lambda ctx: run_once(ctx, command, creates=made)) is True
    assert run(lambda ctx: run_once(ctx, command, creates=str(made))) is False
    assert made.exists()
    assert runs(tmp_path) == 1
    assert {one.name for one in tmp_path.iterdir()} == {"made", "runs"}


def test_what_is_there_already_is_enough(tmp_path: Path) -> None:
    """It may have been created by hand."""
    (tmp_path / "made").touch()
    assert run(lambda ctx: run_once(ctx, ["false"], creates=tmp_path / "made")) is False


def test_a_command_that_fails_counts_as_not_run(tmp_path: Path) -> None:
    """Even if it has created the file."""
    made = tmp_path / "folder" / "made"
    fails = counted(tmp_path, "touch folder/made", "exit 3")
    error = cause_of(lambda ctx: run_once(ctx, fails, creates=made))
    assert isinstance(error, subprocess.CalledProcessError)
    assert made.exists()
    assert run(lambda ctx: run_once(ctx, counted(tmp_path), creates=made)) is True
    assert run(lambda ctx: run_once(ctx, counted(tmp_path), creates=made)) is False
    assert runs(tmp_path) == 2


def test_a_command_that_is_missing_counts_as_not_run(tmp_path: Path) -> None:
    """The error is that of `ctx.run`."""
    made = tmp_path / "made"
    error = cause_of(lambda ctx: run_once(ctx, ["/no/such"], creates=made))
    assert isinstance(error, FileNotFoundError)
    assert run(lambda ctx: run_once(ctx, ["true"], creates=made)) is True


def begin(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Run the script in another process."""
    temporary = folder.with_name(f"{folder.name}-tmp")  # a killed script leaves a folder there
    temporary.mkdir(exist_ok=True)
    env = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(seconds)], cwd=folder, env=env)


def wait_for_run(folder: Path) -> None:
    """Wait until the command of a script has created its file."""
    deadline = time.monotonic() + LONGEST
    while not (folder / "made").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_that_was_killed_counts_as_not_run(tmp_path: Path) -> None:
    """The next run does not take what is there for whole."""
    with begin(tmp_path, 60) as killed:
        wait_for_run(tmp_path)
        found = children(killed.pid)
        killed.kill()
    for pid in found:  # a script has no reaper
        os.kill(pid, signal.SIGKILL)
    command = counted(tmp_path)
    assert run(lambda ctx: run_once(ctx, command, creates=tmp_path / "made")) is True
    assert runs(tmp_path) == 2


def children(pid: int) -> list[int]:
    """Return the ids of all descendants of a process."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def test_of_several_runs_one_runs_it_and_the_others_wait(tmp_path: Path) -> None:
    """They go on when it has succeeded."""
    with begin(tmp_path, 1) as first:
        wait_for_run(tmp_path)
        with begin(tmp_path, 1) as second, begin(tmp_path, 1) as third:
            pass
    assert [first.returncode, second.returncode, third.returncode] == [0, 0, 0]
    assert runs(tmp_path) == 1
    assert {one.name for one in tmp_path.iterdir()} == {"made", "runs"}


def test_a_run_that_waits_can_be_stopped(tmp_path: Path) -> None:
    """The time limit of its step holds."""
    with begin(tmp_path, 2) as first:
        wait_for_run(tmp_path)
        command = counted(tmp_path)
        error = cause_of(
            lambda ctx: run_once(ctx, command, creates=tmp_path / "made"), timeout="0.5s"
        )
    assert isinstance(error, TimeoutError)
    assert first.returncode == 0
    assert runs(tmp_path) == 1


@pytest.mark.parametrize("junk", ["", None, 5, ".", "/", b"made"])
def test_what_is_no_path_is_refused(junk: Any) -> None:
    """PlanDefinitionError says what it must be."""
    error = cause_of(lambda ctx: run_once(ctx, ["false"], creates=junk))
    assert isinstance(error, PlanDefinitionError)
    assert "use the path of a file or folder" in str(error)


def test_a_command_is_a_list(tmp_path: Path) -> None:
    """TypeError says so."""
    error = cause_of(lambda ctx: run_once(ctx, "make", creates=tmp_path / "made"))
    assert isinstance(error, TypeError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """Nobody waits for it."""
    tmp_path.chmod(0o500)
    error = cause_of(lambda ctx: run_once(ctx, ["true"], creates=tmp_path / "made"))
    assert isinstance(error, PermissionError)
