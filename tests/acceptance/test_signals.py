"""Ctrl-C as a real signal to a process, which cleans up and exits as pytest does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_plan.engine.shared.signals import TOGETHER
from tests.plugin.project import Project

LONGEST = 30.0  # seconds that any wait in these tests may take

STEPS = """
import time

@pytest.mark.plan_step
def first(ctx):
    ctx.defer(note, "deferred")
    ctx.start(["sleep", "300"])
    yield
    note("undo first")

@pytest.mark.plan_step
def second(first, ctx):
    {exec}

def pytest_plan_finished(result):
    note("finished", result.outcome)
"""
TEST = "import time\ndef test_it(second):\n    {test}\ndef test_next(second): note('next')"


def begin(project: Project, *, exec: str = "pass", test: str = "pass") -> subprocess.Popen[str]:
    """Start a run whose second step and first test execute the given code."""
    project.steps(STEPS.format(exec=exec))
    project.tests(TEST.format(test=test))
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-W", "error"],
        cwd=project.path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(project: Project, call: str) -> None:
    """Wait until the run has recorded `call`."""
    deadline = time.monotonic() + LONGEST
    while call not in project.calls:
        assert time.monotonic() < deadline, project.calls
        time.sleep(0.01)


def interrupted(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Interrupt the run; return its exit status and its output."""
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=LONGEST)
    return run.returncode, output


def read_until(run: subprocess.Popen[str], text: str) -> str:
    """Read the output until the run has written `text`, and return it."""
    assert run.stdout is not None
    said = ""
    while text not in said:
        line = run.stdout.readline()
        assert line, said
        said += line
    return said


def children(project: Project) -> list[str]:
    """Return the ids of the `sleep` processes that the project's steps have started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"sleep\x00300" in command and os.fsencode(project.path) in environment:
                found.append(entry.name)
    return found


@pytest.mark.parametrize(
    "line",
    ["note('now'); ctx.sleep(300)", "note('now'); ctx.run(['sleep', '300'])",
     "note('now'); ctx.wait_until(lambda: False)",
     "note('now')\n    while True: time.sleep(0.01)"],
    ids=["ctx.sleep", "ctx.run", "ctx.wait_until", "busy loop"],
)  # fmt: skip
def test_interrupt_while_provisioning(project: Project, line: str) -> None:
    """The step is stopped, everything is undone, no test runs, and the exit status is 2."""
    run = begin(project, exec=line)
    wait_for(project, "now")
    status, output = interrupted(run)
    assert status == pytest.ExitCode.INTERRUPTED, output
    assert project.calls == ["now", "undo first", "deferred", "finished cancelled"]
    assert "KeyboardInterrupt" in output
    assert "INTERNALERROR" not in output
    assert children(project) == []


def test_interrupt_while_testing(project: Project) -> None:
    """The test is stopped, everything is undone, and the exit status is 2."""
    run = begin(project, test="note('now'); time.sleep(300)")
    wait_for(project, "now")
    status, output = interrupted(run)
    assert status == pytest.ExitCode.INTERRUPTED, output
    assert project.calls[:3] == ["now", "undo first", "deferred"]
    assert "next" not in project.calls
    assert "INTERNALERROR" not in output
    assert children(project) == []


def test_interrupt_while_cleaning_up(project: Project) -> None:
    """Cleanup continues to its end and says so, and a green run exits with status 2."""
    project.steps(
        """
        import time

        @pytest.mark.plan_step
        def first():
            yield
            note("undo first")

        @pytest.mark.plan_step
        def second(first):
            yield
            note("now")
            while not os.path.exists("go"): time.sleep(0.01)
            note("undo second")
        """
    )
    project.tests("def test_it(second): pass")
    command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-W", "error"]
    with subprocess.Popen(
        command, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        wait_for(project, "now")
        run.send_signal(signal.SIGINT)
        read_until(run, "interrupted; still cleaning up: first, second")
        project.write("go", "")
        output, _ = run.communicate(timeout=LONGEST)
    status = run.returncode
    assert project.calls == ["now", "undo second", "undo first"]
    assert status == pytest.ExitCode.INTERRUPTED, output
    assert "INTERNALERROR" not in output
    assert "1 passed" in output


def test_two_interrupts_while_cleaning_up_leave_the_rest(project: Project) -> None:
    """The second interrupt ends a cleanup that hangs, and everything left is reported."""
    project.steps(
        """
        import time

        @pytest.mark.plan_step
        def stuck():
            yield
            note("now")
            time.sleep(300)
        """
    )
    project.tests("def test_it(stuck): pass")
    command = [sys.executable, "-m", "pytest", "-p", "pytest_plan"]
    with subprocess.Popen(
        command, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        wait_for(project, "now")
        run.send_signal(signal.SIGINT)
        read_until(run, "still cleaning up: stuck")
        time.sleep(TOGETHER + 0.1)  # a signal that follows closely is part of the first one
        status, output = interrupted(run)
    assert status == pytest.ExitCode.INTERRUPTED, output
    assert "ABANDONED" in output.upper()


@pytest.mark.parametrize("flags", [("-O",), ("-OO",), ("-I",), ("-X", "dev")], ids=str)
@pytest.mark.parametrize("args", [(), ("-p", "xdist", "-n", "2")], ids=["solo", "workers"])
def test_flags_of_python_change_nothing(
    project: Project, flags: tuple[str, ...], args: tuple[str, ...]
) -> None:
    """SIGTERM in a test stops the run, which cleans up and exits with status 143."""
    project.steps(STEPS.format(exec="return 1"))
    project.tests(TEST.format(test="note('now'); time.sleep(300)"))
    with subprocess.Popen(
        [sys.executable, *flags, "-m", "pytest", "-p", "pytest_plan", *args],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        wait_for(project, "now")
        run.send_signal(signal.SIGTERM)
        output, _ = run.communicate(timeout=LONGEST)
    assert run.returncode == 128 + signal.SIGTERM, output
    assert [call for call in project.calls if "un" in call or "de" in call] == [
        "undo first",
        "deferred",
    ]
    for word in ("INTERNALERROR", "Error:", "ResourceWarning", "Exception ignored"):
        assert word not in output
    assert children(project) == []
