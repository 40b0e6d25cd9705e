"""`--pdb` and `--trace` in a run with a plan."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import psutil
import pytest

from tests.plugin.project import Project
from tests.xdist.cluster import wait_until

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


def test_failed_step_enters_the_debugger_once(project: Project) -> None:
    """The debugger opens at the line of the step, and not for the tests that it blocks."""
    project.steps(STEPS)
    project.tests(BLOCKED)
    said = debug(project, "--pdb")
    assert said.count(PROMPT) == 1
    assert re.search(r"conftest.py\(\d+\)bad\(\)\n-> def bad\(\): raise RuntimeError", said)
    assert said.count("step 'bad' failed in exec, attempt 1 of 1") == 1
    assert "1 error, 5 blocked" in said


def test_debugger_opens_at_the_line_that_called_this_package(project: Project) -> None:
    """If a method of `ctx` raised the error, the debugger shows the call and not our code."""
    project.steps("""
    @pytest.mark.plan_step
    def bad(ctx):
        ctx.run(["no-such-program"])
    """)
    project.tests("def test_it(bad): pass")
    said = debug(project, "--pdb")
    assert said.count(PROMPT) == 1
    assert '-> ctx.run(["no-such-program"])' in said


def test_every_failed_step_enters_the_debugger(project: Project) -> None:
    """If the plan continues after an error, the debugger opens for each failed step."""
    project.steps(STEPS, "@pytest.mark.plan_step(needs=())\ndef worse(): raise ValueError('so')")
    project.tests("def test_bad(bad): pass\ndef test_worse(worse): pass")
    said = debug(project, "--pdb")
    assert said.count(PROMPT) == 2
    assert "2 errors, 2 blocked" in said


def test_limit_stands_still_while_the_debugger_is_open(project: Project) -> None:
    """Time in the debugger does not count toward the limit, in a debugger of another kind too."""
    project.write(
        "slow.py",
        """
    import pdb, time

    class Slow(pdb.Pdb):
        def interaction(self, frame, what):
            time.sleep(3)
    """,
    )
    project.steps(STEPS)
    project.tests(
        f"{BLOCKED}@pytest.mark.plan('good')\ndef test_good(plan): assert plan.remaining() > 0"
    )
    said = debug(project, "--pdb", "--pdbcls=slow:Slow", "--plan-limit=2s")
    assert "1 passed, 1 error, 5 blocked" in said


def test_trace_does_not_open_at_steps_and_blocked_tests(project: Project) -> None:
    """`--trace` opens the debugger at the start of each test, and nothing else."""
    project.steps(STEPS)
    project.tests(BLOCKED)
    said = debug(project, "--trace")
    assert PROMPT not in said
    assert said.count("ERROR at setup of plan step 'bad'") == 1
    assert "1 error, 5 blocked" in said


def test_failing_test_after_blocked_ones_enters_it(project: Project) -> None:
    """A failing test opens the debugger once, even after blocked tests."""
    project.steps(STEPS)
    project.tests(BLOCKED + FAILING)
    said = debug(project, "--pdb")
    assert said.count(PROMPT) == 2  # the first is that of the step
    assert "-> assert good == 2" in said
    assert "1 failed, 1 error, 5 blocked" in said


def test_quitting_the_debugger_at_a_step_ends_the_session(project: Project) -> None:
    """After `quit` no test begins, and the plan is cleaned up."""
    project.steps(
        "@pytest.mark.plan_step(needs=())\ndef first():\n    yield\n    note('undone')",
        "@pytest.mark.plan_step(needs=['first'])\ndef bad(): raise RuntimeError('no')",
    )
    project.tests("def test_bad(bad): pass\ndef test_free(): note('ran')")
    command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-W", "error", "--pdb"]
    done = subprocess.run(
        command, cwd=project.path, input="q\n", capture_output=True, text=True,
        timeout=LONGEST, check=False,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.INTERRUPTED
    assert done.stdout.count(PROMPT) == 1
    assert project.calls == ["undone"]


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


ATTACHED = """
import bdb, sys, time

debugger = bdb.Bdb(skip=["*"])
debugger.reset()
sys.settrace(debugger.trace_dispatch)

@pytest.mark.plan_step(timeout="50ms", cleanup_timeout="50ms")
def slow(ctx):
    ctx.sleep(0.2)
    yield ctx.remaining()
    ctx.sleep(0.2)
"""


def test_time_limits_do_not_apply_while_a_debugger_is_attached(project: Project) -> None:
    """A step, its cleanup and the tests may take longer than their limits, and a line says so."""
    project.steps(ATTACHED)
    project.tests("import time\ndef test_it(slow): assert slow is None; time.sleep(0.2)")
    result = project.run_apart("--plan-limit", "100ms", "--plan-cleanup-limit", "100ms")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(
        ["plan: a debugger is attached, so time limits do not apply", "plan: slow *ok*"]
    )


IN_EDITOR = """
import sys

@pytest.mark.plan_step
def server(ctx):
    pid = ctx.start(["sleep", "600"]).pid
    note(pid)
    return pid

@pytest.mark.plan_step(timeout="100ms")
def shop(server):
    value = "a shop"  # here
    return value
"""


@pytest.mark.skipif(sys.platform != "linux", reason="debugpy kills the process tree otherwise")
def test_a_step_can_be_debugged_in_an_editor(project: Project) -> None:
    """A breakpoint in a step works, its timeout does not apply, and Stop leaves no server."""
    pytest.importorskip("debugpy")
    from tests.plugin.editor import Editor

    project.steps(IN_EDITOR)
    project.tests("def test_it(shop):\n    assert shop == 'a shop'  # here")
    editor = Editor(project.path, "-p", "pytest_plan", "-W", "error")
    try:
        assert editor.next_stop() == ("shop", "plan-shop")
        time.sleep(0.3)  # longer than the timeout of the step
        editor.go_on()
        assert editor.next_stop() == ("test_it", "MainThread")
        assert psutil.pid_exists(int(project.calls[0]))
    finally:
        editor.stop()
    wait_until(lambda: not psutil.pid_exists(int(project.calls[0])))
