"""Unusual rootdirs and systems: a clear line, and cleanup after SIGKILL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugin.project import ROOT, Project

LONGEST = 40.0  # real seconds that another process may take
STEPS = """
    import pathlib

    def clean(value): pathlib.Path("made").unlink()

    @pytest.mark.plan_step(cleanup=clean)
    def server():
        pathlib.Path("made").touch()
        return "server"
"""
TESTS = f"""
    def test_it(server):
        if "KILL" in os.environ: os.kill(os.getpid(), {signal.SIGKILL})
"""
RUN = (sys.executable, "-m", "pytest", "-p", "pytest_plan", "-p", "no:cacheprovider")
IN_NAMESPACE = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
HIDE_PROC = 'mount -t tmpfs none /proc && "$@"'


def wait_until(done: Callable[[], bool]) -> None:
    """Wait until a condition holds that depends on another process."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def run_in(folder: Path, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder that pytester does not support."""
    return subprocess.run(
        argv, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True, text=True, timeout=LONGEST, check=False,
    )  # fmt: skip


@pytest.fixture(params=["$HOME", "new\nline", "qu'o\"te %d", " blank ", "/".join(["x" * 190] * 3)])
def rootdir(project: Project, request: pytest.FixtureRequest) -> Path:
    """A project in a folder with an unusual name."""
    project.steps(STEPS, name=f"{request.param}/conftest.py")
    project.tests(TESTS, name=f"{request.param}/test_it.py")
    folder: Path = project.path / request.param
    shutil.copy(project.path / "calls.py", folder)
    return folder


def test_a_killed_run_is_cleaned_up_in_any_rootdir(rootdir: Path) -> None:
    """The reaper finds the rootdir, whatever characters are in its name and however long it is."""
    assert run_in(rootdir, *RUN, KILL="1").returncode == -signal.SIGKILL
    wait_until(lambda: not (rootdir / "made").exists())
    wait_until(lambda: not list(rootdir.glob(".pytest_plan/environments")))
    wait_until(lambda: not list(Path(tempfile.gettempdir()).glob("plan-journal-*")))
    assert run_in(rootdir, *RUN, "--plan-cleanup").returncode == 0


def test_a_path_that_is_too_long_is_a_warning(project: Project) -> None:
    """The journal is in a temporary folder, and the message says what to do."""
    name = "/".join(["x" * 190] * 3)
    project.steps(STEPS, name=f"{name}/conftest.py")
    project.tests(TESTS, name=f"{name}/test_it.py")
    shutil.copy(project.path / "calls.py", project.path / name)
    done = run_in(project.path / name, *RUN)
    assert done.returncode == 0
    assert "which is too long for a journal" in done.stdout
    assert "set plan_dir to a shorter path" in done.stdout


@pytest.mark.parametrize("argument", ["--plan-cleanup", "--color=no"])
def test_without_proc_a_line_says_what_to_do(project: Project, argument: str) -> None:
    """On Linux no process can be identified without it; nothing is run or cleaned up."""
    if run_in(project.path, *IN_NAMESPACE, HIDE_PROC, "sh", "true").returncode:
        pytest.skip("/proc cannot be hidden here")
    project.steps(STEPS)
    project.tests(TESTS)
    killed = run_in(project.path, *RUN, "-o", "plan_reaper=false", KILL="1")
    assert killed.returncode == -signal.SIGKILL
    done = run_in(project.path, *IN_NAMESPACE, HIDE_PROC, "sh", *RUN, argument)
    text = done.stdout + done.stderr
    assert done.returncode == (1 if argument == "--plan-cleanup" else 4), text
    assert "/proc is not mounted; to mount it: mount -t proc proc /proc" in text
    assert "INTERNALERROR" not in text
    assert (project.path / "made").exists()
    assert run_in(project.path, *RUN, "--plan-cleanup").returncode == 0
    assert not (project.path / "made").exists()
