"""Names in the output can be imported: `pytest_plan.StateError`, not its internal module."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.plugin.project import ROOT, Project

INNER = re.compile(r"pytest_plan\.(?:engine|plugin|report)[\w.]*\.[A-Z]\w+")

STEPS = """
@pytest.mark.plan_step(needs=())
def shop():
    yield "a shop"
    raise RuntimeError("cannot be closed")

@pytest.mark.plan_step(needs=["shop"])
def basket(state):
    state["shop"] = "another shop"

@pytest.mark.plan_step(needs=(), timeout="100ms")
def endless():
    while True:
        pass

@pytest.mark.plan_step(needs=(), timeout="100ms")
def catches(ctx):
    try:
        ctx.sleep("1h")
    except BaseException as error:
        raise ValueError("the first error is its context") from error
"""
TESTS = """
def test_steps(basket, endless, catches): pass
def test_state(shop, plan): plan.state["shop"] = 1
def test_key(plan): plan.state[1]
def test_need(plan): plan.need("nothing")
"""
SCRIPT = """
from pytest_plan import GenericStep, Plan

def fail():
    raise ValueError("no")

plan = Plan()
plan.add_step(GenericStep(exec=lambda: 1, cleanup=fail), name="one")
plan.add_step(GenericStep(exec={exec}), name="two", timeout="100ms")
plan.execute()
"""


@pytest.mark.usefixtures("quick_escalation")
@pytest.mark.parametrize("style", ["long", "short", "native", "line"])
def test_failures_show_public_names_alone(project: Project, style: str) -> None:
    """Tracebacks of every style and the summary have only public names."""
    project.steps(STEPS)
    project.tests(TESTS)
    shown = project.run("--plan-continue-on-error", "-rA", f"--tb={style}").stdout.str()
    assert INNER.findall(shown) == []
    assert "StepInterrupted" not in shown
    assert "StepTimeoutError" in shown


def test_the_last_line_after_a_signal_shows_a_public_name(project: Project) -> None:
    """After a signal the closing line has the public name of the exception."""
    project.steps("@pytest.mark.plan_step\ndef shop(): pass")
    project.tests("import signal\ndef test_it(shop): os.kill(os.getpid(), signal.SIGTERM)")
    result = project.run_apart()
    assert INNER.findall(result.stdout.str()) == []
    result.stdout.fnmatch_lines(["!* pytest_plan.Terminated: SIGTERM *!"])


@pytest.mark.parametrize(
    ("exec", "error"),
    [
        ("fail", "pytest_plan.StepError: step 'two' failed"),
        ("lambda ctx: ctx.sleep('1h')", "pytest_plan.StepTimeoutError: step 'two' "),
        ("lambda state: state.update(one=1)", "pytest_plan.StateError: "),
        ("lambda nothing: 1", "pytest_plan.PlanDefinitionError: "),
    ],
)
def test_a_script_shows_public_names_alone(exec: str, error: str) -> None:
    """Tracebacks of a plain script have only public names."""
    script = SCRIPT.format(exec=exec)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert error in result.stderr
    assert INNER.findall(result.stderr) == []
