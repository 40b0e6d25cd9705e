"""`--plan-limit` without workers."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project, plan_lines

SLOW = """
import time

def test_quick(): pass

def test_slow():
    while True:
        time.sleep(0.01)

def test_later(): pass
"""
PASSED = "the plan's limit of 1.00s has passed"


def test_the_limit_applies_without_any_step(project: Project) -> None:
    """The hanging test fails, later tests are counted as not run, and the exit status is 1."""
    project.tests(SLOW)
    result = project.run_apart("--plan-limit=1s")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E *Failed: " + PASSED, "1 test was not run: " + PASSED])
    assert plan_lines(result) == ["plan: stopping: the plan's limit of T has passed"]
    assert "INTERNALERROR" not in result.stdout.str()


def test_a_limit_that_is_not_reached_is_silent(project: Project) -> None:
    """A limit that is not reached adds no line to the output of a project without steps."""
    project.write("pytest.ini", "[pytest]\nplan_limit = 5m")
    project.tests("def test_it(): pass")
    result = project.run_apart()
    result.assert_outcomes(passed=1)
    assert "plan: " not in result.stdout.str().replace("plugins: plan", "")
    assert not (project.path / ".pytest_plan").exists()


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["--collect-only"], pytest.ExitCode.OK),
        (["--plan-cleanup"], pytest.ExitCode.OK),
        (["--plan-show"], pytest.ExitCode.OK),
        (["-k", "nothing"], pytest.ExitCode.NO_TESTS_COLLECTED),
    ],
)
def test_runs_without_tests_are_as_before(
    project: Project, args: list[str], status: pytest.ExitCode
) -> None:
    """A run without tests ends as it does without a limit."""
    project.tests("def test_it(): pass")
    result = project.run_apart("--plan-limit=5m", *args)
    assert result.ret == status
    assert "INTERNALERROR" not in result.stdout.str()


def test_nothing_begins_after_a_limit_that_passed_during_collection(project: Project) -> None:
    """With an eager step, the limit can pass before the other steps and the tests begin."""
    project.steps("""
    @pytest.mark.plan_step(eager=True)
    def first():
        yield 1
        note("cleaned")

    @pytest.mark.plan_step(needs=())
    def second():
        note("step")
    """)
    project.tests("""
    import time

    time.sleep(1.5)

    def test_needs_none():
        note("test")

    def test_needs_it(second):
        note("test")
    """)
    result = project.run_apart("--plan-limit=1s")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.calls == ["cleaned"]


def test_a_slow_collection_is_not_killed(project: Project) -> None:
    """Long after the limit, pytest still collects; then it cleans up and exits with status 1."""
    project.steps("""
    from pytest_plan.engine.environments import reaper

    reaper.PATIENCE, reaper._BEAT = 1.0, 0.1

    @pytest.mark.plan_step(eager=True)
    def first():
        yield 1
        note("cleaned")
    """)
    project.tests("""
    import time

    time.sleep(4)

    def test_first(first): ...
    """)
    result = project.run_apart("--plan-limit=1s")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.calls == ["cleaned"]
