"""`--pdb` and `--trace` in a run with a plan."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.plugin.project import Project

LONGEST = 60.0
PROMPT = "(Pdb)"
STEPS = """
@pytest.mark.plan_step(needs=())
def good(): return 1

@pytest.mark.plan_step(needs=())
def bad(): raise RuntimeError("no")
"""
BLOCKED = """
@pytest.mark.parametrize("number", range(5))
def test_blocked(number, bad): pass
"""
FAILING = """
def test_failing(good):
    assert good == 2
"""


def debug(project: Project, *args: str) -> str:
    """Run pytest, enter `continue` at every prompt, and return the output."""
    command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-W", "error"]
    done = subprocess.run(
        [*command, "--plan-continue-on-error", *args], cwd=project.path, input="c\n" * 20,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LONGEST, check=False,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "INTERNALERROR" not in done.stdout
    return done.stdout


@pytest.mark.parametrize("option", ["--pdb", "--trace"])
def test_blocked_tests_do_not_enter_the_debugger(project: Project, option: str) -> None:
    """The debugger does not open for blocked tests, and the failed step is reported as usual."""
    project.steps(STEPS)
    project.tests(BLOCKED)
    said = debug(project, option)
    assert PROMPT not in said
    assert "traceback >" not in said
    assert said.count("ERROR at setup of plan step 'bad'") == 1
    assert "1 error, 5 blocked" in said


def test_failing_test_after_blocked_ones_enters_it(project: Project) -> None:
    """A failing test opens the debugger once, even after blocked tests."""
    project.steps(STEPS)
    project.tests(BLOCKED + FAILING)
    said = debug(project, "--pdb")
    assert said.count(PROMPT) == 1
    assert "-> assert good == 2" in said
    assert "1 failed, 1 error, 5 blocked" in said


def test_quitting_the_debugger_cleans_up(project: Project) -> None:
    """Quitting the debugger ends the session as usual, and the plan is cleaned up."""
    project.steps("@pytest.mark.plan_step\ndef good():\n    yield 1\n    note('undone')")
    project.tests(FAILING + BLOCKED.replace(", bad", ""))
    command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-W", "error", "--pdb"]
    done = subprocess.run(
        command, cwd=project.path, input="q\n", capture_output=True, text=True,
        timeout=LONGEST, check=False,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.INTERRUPTED
    assert done.stdout.count(PROMPT) == 1
    assert project.calls == ["undone"]
