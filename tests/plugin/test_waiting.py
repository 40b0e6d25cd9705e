"""`--plan-wait`: runs that want a named environment while another process uses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.project import Project, refuses, until

WORKERS = pytest.mark.parametrize(
    "workers", [(), ("-p", "xdist", "-n", "2")], ids=["solo", "xdist"]
)
ARGV = [sys.executable, "-m", "pytest", "-p", "pytest_plan"]
# With HELD, a run waits in the step `held` for a line from the test. With SLOW, the cleanup of `db`
# waits until the test opens a pipe.
STEPS = """
import sys

def drop(value):
    note("drop")
    if os.environ.get("SLOW"):
        os.mkfifo("cleaning")
        open("cleaning").close()

@pytest.mark.plan_step(cleanup=drop)
def db(ctx):
    note("db")
    return os.getpid()

@pytest.mark.plan_step(needs=["db"])
def held():
    if os.environ.get("HELD"):
        print("holding", file=sys.__stderr__, flush=True)
        sys.__stdin__.readline()
"""


class Start:
    """Starts runs of a project; all of them are killed when the test ends."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.runs: list[subprocess.Popen[str]] = []

    def __call__(self, *args: str, **variables: str) -> subprocess.Popen[str]:
        """Start a run; its standard error is part of its output."""
        run = subprocess.Popen(
            [*ARGV, *args], cwd=self._project.path, env={**os.environ, **variables}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.runs.append(run)
        return run

    def held(self, *args: str, **variables: str) -> subprocess.Popen[str]:
        """Start a run that holds its environment until `release` is called."""
        run = self(*args, "-s", HELD="1", **variables)
        until(run, "holding")
        return run


def release(run: subprocess.Popen[str]) -> None:
    """Let a run go on; check that it succeeds."""
    output, _ = run.communicate("\n", timeout=60)
    assert run.returncode == 0, output


def await_cleanup(project: Project) -> Path:
    """Wait until a slow cleanup has begun; return the pipe that ends it."""
    pipe = project.path / "cleaning"
    deadline = time.monotonic() + 30
    while not pipe.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return pipe


@pytest.fixture
def start(project: Project) -> Iterator[Start]:
    """Starts runs of a project with the steps above."""
    project.steps(STEPS)
    project.tests("def test_it(db, held): note('test')")
    start = Start(project)
    yield start
    for run in start.runs:
        run.kill()
        run.communicate()


@WORKERS
def test_the_second_run_waits_for_the_first(
    project: Project, start: Start, workers: tuple[str, ...]
) -> None:
    """It says for whom, for how long at most, and then reuses what the first run has kept."""
    first = start.held("--plan-keep=always")
    second = start("--plan-reuse", "--plan-wait=60s", *workers)
    line = until(second, "waiting")
    where = f"process {first.pid} on {os.uname().nodename}"
    assert line.startswith("plan: waiting for at most 1m 00s, because the environment 'default' ")
    assert f" is in use by {where} for " in line
    release(first)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert "unchanged" in output
    assert project.calls == ["db", "test", "test"]


@pytest.mark.parametrize("source", ["ini", "variable"])
def test_it_can_be_set_for_all_runs(
    project: Project, start: Start, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ini value `plan_wait` and the variable PYTEST_PLAN_WAIT do the same; also with `-q`."""
    if source == "ini":
        project.write("pytest.ini", "[pytest]\nplan_wait = 60s\n")
    else:
        monkeypatch.setenv("PYTEST_PLAN_WAIT", "60s")
    first = start.held("--plan-environment=blue")
    second = start("--plan-environment=blue", "-q")
    assert "environment 'blue' is in use by" in until(second, "waiting")
    release(first)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert project.calls == ["db", "test", "drop", "db", "test", "drop"]


def test_a_wait_that_is_too_short_is_an_error(project: Project, start: Start) -> None:
    """The message says who uses the environment, how long the run has waited, and what to do."""
    first = start.held("--plan-environment=blue")
    refused = project.run_apart("--plan-environment", "blue", "--plan-wait", "0.3s")
    where = f"'blue' is in use by process {first.pid} on {os.uname().nodename} for "
    refuses(refused, where, "--plan-environment NAME", "; this run has waited for 0.30s")
    release(first)
    assert project.calls == ["db", "test", "drop"]


@pytest.mark.parametrize("options", [(), ("--plan-wait", "0")], ids=["default", "zero"])
def test_without_it_no_run_waits(project: Project, start: Start, options: tuple[str, ...]) -> None:
    """The message names the process and both cures."""
    first = start.held("--plan-environment=blue")
    refused = project.run_apart("--plan-environment", "blue", *options)
    refuses(
        refused,
        f"'blue' is in use by process {first.pid} on {os.uname().nodename} for ",
        "; to wait until it is free, use --plan-wait 60s; "
        "to use another one, use --plan-environment NAME",
    )
    assert "waited" not in refused.stderr.str()
    release(first)


@WORKERS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait(
    project: Project, start: Start, workers: tuple[str, ...], number: int
) -> None:
    """The run ends at once, with the status of the signal, and leaves the environment alone."""
    first = start.held("--plan-environment=blue")
    second = start("--plan-environment=blue", "--plan-wait=10m", *workers)
    until(second, "waiting")
    second.send_signal(number)
    output, _ = second.communicate(timeout=30)
    assert second.returncode == (2 if number == signal.SIGINT else 143), output
    assert "INTERNALERROR" not in output
    release(first)
    assert project.calls == ["db", "test", "drop"]


def test_it_waits_for_a_process_that_cleans_up(project: Project, start: Start) -> None:
    """The line says that the environment is being cleaned up, and which process does it."""
    assert project.run_apart("--plan-keep", "always").ret == 0
    cleaner = start("--plan-cleanup", SLOW="1")
    pipe = await_cleanup(project)
    refuses(project.run_apart("--plan-reuse"), f"is being cleaned up by process {cleaner.pid} on ")
    second = start("--plan-reuse", "--plan-wait=60s")
    assert f"is being cleaned up by process {cleaner.pid} on " in until(second, "waiting")
    pipe.write_bytes(b"")
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert project.calls == ["db", "test", "drop", "db", "test"]


def test_it_waits_for_the_reaper(project: Project, start: Start) -> None:
    """A run that follows a killed one waits until the reaper has cleaned up."""
    first = start.held("--plan-environment=blue", SLOW="1")
    first.kill()
    pipe = await_cleanup(project)
    second = start("--plan-environment=blue", "--plan-wait=60s")
    assert "is being cleaned up by process " in until(second, "waiting")
    pipe.write_bytes(b"")
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert project.calls == ["db", "drop", "db", "test", "drop"]


def test_forget_waits_too(project: Project, start: Start) -> None:
    """`--plan-forget` waits like a run."""
    first = start.held("--plan-keep=always")
    forget = start("--plan-forget=db", "--plan-wait=60s")
    until(forget, "waiting")
    release(first)
    output, _ = forget.communicate(timeout=60)
    assert forget.returncode == 0, output
    assert "forgot 'db'" in output
    assert Path(project.path / "calls.txt").read_text() == "db\ntest\n"
