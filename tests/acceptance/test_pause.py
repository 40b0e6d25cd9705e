"""`--plan-pause-on-failure`, with and without a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time

import pytest

from tests.plugin.project import Project

LONGEST = 30.0
STEPS = """
@pytest.mark.plan_step(needs=())
def good():
    yield 1
    note("undo good")

@pytest.mark.plan_step
def bad(good, ctx):
    ctx.defer(note, "undo bad")
    (ctx.artifacts / "dump.txt").write_text("a dump")
    print("the last words of the step")
    raise RuntimeError("no")
"""
TESTS = """
def test_bad(bad): pass

@pytest.mark.plan("good")
def test_limit(plan):
    note("remaining", plan.remaining() != 0)
"""


class Terminal:
    """A run of pytest whose standard streams are a terminal."""

    def __init__(self, project: Project, *args: str) -> None:
        self._ours, theirs = pty.openpty()
        self.text = ""
        command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-W", "error", *args]
        self._run = subprocess.Popen(
            command, cwd=project.path, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def read_until(self, words: str) -> None:
        """Read the output until the run has written `words`."""
        deadline = time.monotonic() + LONGEST
        while words not in self.text:
            assert self._read(deadline), f"{words!r} did not come:\n{self.text}"

    def press_enter(self) -> None:
        """Press Enter."""
        os.write(self._ours, b"\n")

    def end(self) -> int:
        """Read the rest of the output and return the exit status."""
        deadline = time.monotonic() + LONGEST
        while self._read(deadline):
            pass
        os.close(self._ours)
        return self._run.wait(timeout=LONGEST)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
        try:
            content = os.read(self._ours, 65536) if ready else b""
        except OSError:
            return False  # Linux reports in this way that the other end is closed
        self.text += content.decode(errors="replace")
        return bool(content)


def test_run_pauses_until_enter(project: Project) -> None:
    """The run shows log and artifacts and waits with its limit suspended, then cleans up."""
    project.steps(STEPS)
    project.tests(TESTS)
    terminal = Terminal(project, "--plan-pause-on-failure", "--plan-limit=1s")
    terminal.read_until("press Enter")
    assert "the last words of the step" in terminal.text
    artifacts = terminal.text.partition("artifacts: ")[2].split()[0]
    with open(os.path.join(artifacts, "dump.txt"), encoding="utf-8") as dump:
        assert dump.read() == "a dump"
    time.sleep(1.2)
    assert project.calls == []
    terminal.press_enter()
    assert terminal.end() == 1
    assert project.calls == ["remaining True", "undo bad", "undo good"]
    assert "1 passed, 1 error, 1 blocked" in terminal.text
    assert "INTERNALERROR" not in terminal.text


def test_terminal_alone_does_not_pause(project: Project) -> None:
    """Without the option a run in a terminal does not wait."""
    project.steps(STEPS)
    project.tests(TESTS)
    terminal = Terminal(project)
    assert terminal.end() == 1
    assert "press Enter" not in terminal.text


def without_terminal(project: Project, *args: str) -> subprocess.CompletedProcess[str]:
    """Run pytest without a terminal."""
    command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "--plan-pause-on-failure"]
    return subprocess.run(
        [*command, *args], cwd=project.path, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=LONGEST, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("args", [[], ["-s"], ["-q"]])
def test_without_a_terminal_it_is_ignored_with_a_warning(project: Project, args: list[str]) -> None:
    """Without a terminal the option is ignored, and one warning says so."""
    project.steps(STEPS, "@pytest.mark.plan_step(needs=())\ndef worse(): raise RuntimeError('no')")
    project.tests(TESTS.replace("test_bad(bad)", "test_bad(bad, worse)"))
    result = without_terminal(project, "--plan-continue-on-error", *args)
    assert result.returncode == 1
    assert result.stdout.count("--plan-pause-on-failure is ignored: there is no terminal") == 1
    assert "press Enter" not in result.stdout
    assert "1 passed, 1 warning, 2 errors, 1 blocked" in result.stdout
    assert result.stderr == ""


def test_warning_as_error_does_not_end_the_run(project: Project) -> None:
    """If warnings are errors, the run still prints its report and cleans up."""
    project.steps(STEPS)
    project.tests(TESTS)
    result = without_terminal(project, "-W", "error")
    assert result.returncode == 1
    assert "ERROR at setup of plan step 'bad'" in result.stdout
    assert "INTERNALERROR" not in result.stdout
    assert project.calls[-2:] == ["undo bad", "undo good"]
