"""Errors in hooks, listeners and declarations of conftests and plugins."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plugin.project import Project

LONGEST = 60.0  # seconds that the reaper may take
STEP = """
@pytest.mark.plan_step
def db():
    note("db")
    yield 1
    note("cleaned")
"""
TESTS = "def test_db(db): note('test')"
BROKEN_CLASS = """
@pytest.mark.plan_step
class Bad(Step):
    def __init__(self): raise RuntimeError("mine")
"""
workers = pytest.mark.parametrize("args", [[], ["-p", "xdist", "-n", "2"]], ids=["solo", "workers"])


def text_of(result: pytest.RunResult) -> str:
    """Return everything that a run has printed."""
    return result.stdout.str() + result.stderr.str()


def refused(result: pytest.RunResult, function: str, error: str = "RuntimeError: mine") -> str:
    """Check that a run names the error once, with the traceback of the user's code alone."""
    said = text_of(result)
    assert result.ret == pytest.ExitCode.USAGE_ERROR, said
    assert said.count(f"E   {error}") == 1, said
    assert f"in {function}" in said
    for unwanted in ("INTERNALERROR", "in use", "pytest_plan/", "pluggy/"):
        assert unwanted not in said
    return said


def left(project: Project) -> list[str]:
    """Return the files that a run has left of its environment and its reaper."""
    return [str(path) for path in project.path.glob(".pytest_plan/environments/**/*")]


@workers
@pytest.mark.parametrize(
    ("source", "function"),
    [
        (
            "def pytest_plan_make_listener(): raise RuntimeError('mine')",
            "pytest_plan_make_listener",
        ),
        ("def pytest_plan_make_listener(): pytest.fail('mine')", "pytest_plan_make_listener"),
        ("def pytest_plan_configure(): raise RuntimeError('mine')", "pytest_plan_configure"),
        ("def pytest_plan_configure(): raise SystemExit('mine')", "pytest_plan_configure"),
        (BROKEN_CLASS, "__init__"),
    ],
    ids=["listener", "listener-fails", "configure", "configure-exits", "class"],
)
def test_an_error_before_the_plan_begins_refuses_the_run(
    project: Project, args: list[str], source: str, function: str
) -> None:
    """It is named once, with its own traceback and status 4; nothing has run, nothing is left."""
    project.steps(STEP, source)
    project.tests(TESTS)
    result = project.run_apart(*args)
    errors = {"SystemExit": "SystemExit: mine", "pytest.fail": "Failed: mine"}
    error = next((text for word, text in errors.items() if word in source), "RuntimeError: mine")
    refused(result, function, error)
    assert project.calls == []
    assert left(project) == []


def test_all_that_was_claimed_is_released(project: Project) -> None:
    """The same process can use the environment at once, and its signal handlers are restored."""
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    broken = "def pytest_plan_make_listener(): raise RuntimeError('mine')"
    conftest = project.steps(STEP, broken)
    project.tests(TESTS)
    refused(
        project.run("--plan-environment=shop", "--plan-keep=always"), "pytest_plan_make_listener"
    )
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == handlers
    assert left(project) == []
    conftest.write_text(conftest.read_text().replace(broken, ""))
    project.run("--plan-environment=shop").assert_outcomes(passed=1)
    assert project.calls == ["db", "test", "cleaned"]


def test_kept_steps_stay_kept(project: Project) -> None:
    """A run that reuses an environment and cannot begin leaves it as it was."""
    step = "def drop(): note('dropped')\n@pytest.mark.plan_step(cleanup=drop)\ndef db(): note('db')"
    conftest = project.steps(step)
    project.tests("@pytest.mark.plan('db')\ndef test_db(): note('test')")
    project.run("--plan-keep=always").assert_outcomes(passed=1)
    whole = conftest.read_text()
    broken = "\ndef pytest_plan_make_listener(): raise RuntimeError('mine')\n"
    conftest.write_text(whole + broken)
    refused(project.run("--plan-reuse"), "pytest_plan_make_listener")
    conftest.write_text(whole)
    project.run("--plan-reuse").assert_outcomes(passed=1)
    assert project.calls == ["db", "test", "test"]
    assert project.run("--plan-cleanup").ret == 0
    assert project.calls[-1] == "dropped"


def test_an_error_in_the_workers_alone_is_named_once(project: Project) -> None:
    """The controller reports it and ends; no worker is replaced."""
    hook = """
    def pytest_plan_configure(config):
        if hasattr(config, "workerinput"): raise RuntimeError("mine")
    """
    project.steps(STEP, hook)
    project.tests(TESTS)
    said = refused(project.run_apart("-p", "xdist", "-n", "2"), "pytest_plan_configure")
    assert "crashed" not in said
    assert project.calls == []


def test_an_error_of_show_is_named(project: Project) -> None:
    """`--plan-show` ends with status 4 if another plugin's hook raises."""
    project.steps(STEP, "def pytest_plan_show(): raise RuntimeError('mine')")
    project.tests(TESTS)
    refused(project.run("--plan-show"), "pytest_plan_show")


@workers
def test_listeners_that_raise_are_named_once(project: Project, args: list[str]) -> None:
    """The run goes on; at its end each error is shown once, with its own traceback."""
    hooks = """
    def pytest_plan_make_listener():
        def listen(event): raise KeyError("heard")
        return listen
    def pytest_plan_step_finished(result): raise RuntimeError("mine")
    """
    project.steps(STEP, hooks)
    project.tests(TESTS)
    result = project.run_apart(*args)
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    said = text_of(result)
    for error, function in (("KeyError: 'heard'", "listen"), ("RuntimeError: mine", "")):
        assert said.count(f"E   {error}") == 1, said
        assert f": in {function or 'pytest_plan_step_finished'}" in said
    assert "pytest_plan/" not in said
    assert project.calls == ["db", "test", "cleaned"]


KILLED = """
def undo(): note("undone")

@pytest.mark.plan_step
def db(ctx):
    ctx.defer(undo)
    return 1
"""
NOT_DECLARED = {
    "configure": "def pytest_plan_configure(): raise RuntimeError('mine')",
    "class": BROKEN_CLASS,
    "option": "@pytest.mark.plan_step(nonsense=1)\ndef bad(): pass",
    "condition": "@pytest.mark.skipif('1 / 0', reason='')\n@pytest.mark.plan_step\ndef bad(): pass",
}
NOT_LOADED = {
    "error": "raise RuntimeError('mine')",
    "exit": "import sys; sys.exit('mine')",
    "skip": "pytest.skip('mine', allow_module_level=True)",
}


def killed(project: Project, conftest: str, *args: str) -> None:
    """Run a test that kills pytest with SIGKILL after its step has deferred a call."""
    project.steps(KILLED, name=conftest)
    test = project.tests(
        "def test_it(db): os.kill(os.getpid(), 9)", name=f"{conftest[:-11]}test_it.py"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_plan", *args, str(test)]
    assert subprocess.run(command, cwd=project.path, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("folder", ["", "api/"], ids=["root", "sub-folder"])
@pytest.mark.parametrize("broken", [*NOT_DECLARED, *NOT_LOADED])
def test_what_cannot_be_loaded_does_not_stop_a_recovery(
    project: Project, folder: str, broken: str
) -> None:
    """It is named, and everything that does not need it is cleaned up: no INTERNALERROR."""
    if broken == "configure" and folder:
        pytest.skip("this hook is an error in a sub-folder")
    name = f"{folder}conftest.py"
    killed(project, name, "-o", "plan_reaper=false")
    source = {**NOT_DECLARED, **NOT_LOADED}[broken]
    project.steps(KILLED, source, name=name)
    result = project.run("--plan-cleanup")
    said = text_of(result)
    assert "INTERNALERROR" not in said
    assert "mine" in said or "nonsense" in said or "ZeroDivisionError" in said, said
    assert said.count("E   ") <= 1, said
    is_loaded = broken in NOT_DECLARED
    assert project.calls == (["undone"] if is_loaded else [])
    assert result.ret == (0 if is_loaded else 1), said


def test_the_reaper_cleans_up_although_a_step_cannot_be_declared(project: Project) -> None:
    """After SIGKILL, the reaper calls what it can, and its log names the error once."""
    hook = """
    def pytest_plan_configure():
        if os.path.exists("broken"): raise RuntimeError("mine")
    """
    project.steps(KILLED, hook)
    test = project.tests(
        "def test_it(db):\n    open('broken', 'w').close()\n    os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_plan", str(test)]
    killed = subprocess.run(command, cwd=project.path, check=False).returncode
    assert killed == -signal.SIGKILL
    wait_until_reaped(project.path)
    assert project.calls == ["undone"]
    assert left(project) == []


def wait_until_reaped(folder: Path) -> None:
    """Wait until the reaper has removed the environment of the dead run."""
    until = time.monotonic() + LONGEST
    while list(folder.glob(".pytest_plan/environments/*")):
        assert time.monotonic() < until, "the reaper took too long"
        time.sleep(0.05)
