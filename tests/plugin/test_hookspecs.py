"""The hooks that other plugins can implement."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project

WORKERS = pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n2")], ids=["solo", "n2"])
STEPS = """
import threading

@pytest.mark.plan_step(retries=1, retry_wait=0)
def db(ctx):
    if ctx.attempt == 1: raise RuntimeError("once")
    yield 1

@pytest.mark.plan_step
def bad(): raise RuntimeError("no")

@pytest.mark.plan_step
def child(bad): pass

def where():
    return "main" if threading.current_thread() is threading.main_thread() else "other"
"""
HOOKS = """
def pytest_plan_step_started(config, step):
    note("started", step, where())

def pytest_plan_step_finished(config, result):
    note("finished", result.name, result.outcome, result.cleanup.outcome, where())

def pytest_plan_cleanup(config, plan, reason):
    note("cleanup", reason, plan.state["db"], plan.results["bad"].outcome, where())

def pytest_plan_step_cleaned(config, result):
    note("cleaned", result.name, result.cleanup.outcome, where())

def pytest_plan_finished(config, result):
    note("plan", result.outcome, *result.steps, where())
"""
TESTS = "def test_db(db): note('test')\ndef test_child(child): pass"
HAPPENED = [
    "started db main",
    "finished db succeeded none main",
    "started bad main",
    "finished bad failed none main",
    "finished child blocked none main",
    "test",
    "cleanup failure 1 failed main",
    "cleaned db succeeded main",
    "plan failed db bad child main",
]


def test_hooks_are_called_in_order_on_the_main_thread(project: Project) -> None:
    """The hooks are called on the main thread, in the order of events."""
    project.steps(STEPS, HOOKS)
    project.tests(TESTS)
    project.run().stdout.fnmatch_lines(["*1 passed, 1 error, 1 blocked*"])
    assert project.calls == HAPPENED


def test_hooks_may_take_fewer_arguments(project: Project) -> None:
    """An implementation can leave out arguments, as with every pytest hook."""
    project.steps(STEPS, "def pytest_plan_step_started(step): note(step)")
    project.tests(TESTS)
    project.run()
    assert project.calls[:2] == ["db", "bad"]


def test_hooks_of_a_folder_are_called(project: Project) -> None:
    """A conftest in a folder can implement the hooks."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.steps("def pytest_plan_step_started(step): note('deep', step)", name="a/conftest.py")
    project.tests("def test_a(db): pass", name="a/test_a.py")
    project.run(".").assert_outcomes(passed=1)
    assert project.calls == ["deep db"]


REASONS = """
@pytest.mark.plan_step
def machine(ctx):
    ctx.defer(lambda: note("hook", ctx.reason))

def pytest_plan_cleanup(reason): note("cleanup", reason)
"""


@WORKERS
@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("pass", "success"),
        ("assert False", "failure"),
        ("pytest.exit('enough', returncode=0)", "success"),
        ("pytest.exit('enough', returncode=3)", "failure"),
        ("raise KeyboardInterrupt", "failure"),
        ("pytest.skip('today')", "success"),
        ("import time; time.sleep(20)", "timeout"),
    ],
)
def test_the_reason_of_a_cleanup_is_how_the_session_ended(
    project: Project, workers: tuple[str, ...], test: str, reason: str
) -> None:
    """A hook or a cleanup can collect diagnostics after a failed test, and only then."""
    if workers and ("exit" in test or "Keyboard" in test):
        pytest.skip("in a worker, this does not end the session")
    project.steps(REASONS)
    project.tests(f"def test_it(machine): {test}")
    project.run_apart("--plan-limit=2s" if reason == "timeout" else "--plan-limit=1m", *workers)
    assert project.calls == [f"cleanup {reason}", f"hook {reason}"]


def test_the_cleanup_hook_is_not_called_without_a_cleanup(project: Project) -> None:
    """No step has begun, or all are kept."""
    project.steps(
        "@pytest.mark.plan_step\ndef machine(): return 1",
        "def pytest_plan_cleanup(reason): note(reason)",
    )
    project.tests("def test_it(machine): pass")
    project.run_apart("--plan-keep=always")
    project.run_apart("-k", "nothing")
    assert project.calls == []
    project.run("--plan-cleanup")


@pytest.mark.parametrize(
    "hook", ["step_started(step)", "step_finished(result)", "step_cleaned(result)",
             "cleanup(reason)", "finished(result)"],
)  # fmt: skip
def test_error_in_a_hook_does_not_end_the_run(project: Project, hook: str) -> None:
    """An error in a hook is reported, and the run continues to its end."""
    project.steps(
        f"""
        @pytest.mark.plan_step
        def db():
            yield 1
            note("undo")

        def pytest_plan_{hook}:
            raise RuntimeError("in the hook")
        """
    )
    project.tests("def test_it(db): note('test')")
    result = project.run()
    result.assert_outcomes(passed=1)
    assert project.calls == ["test", "undo"]
    result.stdout.fnmatch_lines(["plan: *ignored*RuntimeError: in the hook*"])
    assert "INTERNALERROR" not in result.stdout.str()


def test_unknown_hook_is_refused_by_pytest(project: Project) -> None:
    """A misspelled hook name is an error, as for pytest's own hooks."""
    project.steps("def pytest_plan_step_start(step): pass")
    project.tests("def test_it(): pass")
    result = project.run_apart()
    result.stdout.fnmatch_lines(["*unknown hook 'pytest_plan_step_start'*"])


def test_wrong_argument_is_refused_by_pytest(project: Project) -> None:
    """An argument that the hook does not have is an error that names it."""
    project.steps("def pytest_plan_step_started(steps): pass")
    project.tests("def test_it(): pass")
    result = project.run_apart()
    assert result.ret != 0
    assert "Argument(s) {'steps'} are declared in the hookimpl" in (
        result.stdout.str() + result.stderr.str()
    )


def test_results_have_what_reports_need(project: Project) -> None:
    """The results passed to the hooks have attempts, times, reason, place and run id."""
    project.steps(
        STEPS,
        """
        def pytest_plan_step_finished(result):
            note(result.name, len(result.attempts), result.reason, result.origin)
            assert result.seconds >= 0

        def pytest_plan_finished(result):
            note(len(result.run_id), result.limit, result.seconds > 0)
        """,
    )
    project.tests(TESTS)
    project.run("--plan-limit=60")
    assert project.calls == [
        "db 2 None conftest.py:8",
        "bad 1 RuntimeError: no conftest.py:13",
        "child 0 needs 'bad': failed conftest.py:16",
        "test",
        "8 60.0 True",
    ]
