"""Secrets do not appear in the output of a run or in the files that it leaves."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project


def test_a_secret_that_is_set_before_the_run_is_masked(project: Project) -> None:
    """A secret is masked in the report of a failed step and in its log among the artifacts."""
    project.steps("""
        def pytest_plan_configure(config, plan):
            plan.state["token"] = Secret("hunter2-very-secret")

        @pytest.mark.plan_step
        def login(ctx, state):
            ctx.log(f"password is {state['token'].reveal()}")
            raise RuntimeError("boom")
    """)
    project.tests("def test_it(login): pass")
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "password is ***" in result.stdout.str()
    assert "hunter2" not in result.stdout.str()
    logs = [*project.path.rglob("log.txt")]
    assert [log.read_text() for log in logs] == ["password is ***\n"]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_secret_that_a_test_puts_into_the_state_is_masked(project: Project, workers: str) -> None:
    """Also inside a container, and in a worker: a cleanup that shows it is masked."""
    project.steps("""
        @pytest.mark.plan_step
        def server(ctx, state):
            yield 1
            print("from a test:", "hunter2-" + "of-a-test")
            raise RuntimeError("no " + "hunter2-" + "of-a-test")
    """)
    project.tests("""
        from pytest_plan import Secret

        def test_it(server, plan):
            plan.state["login"] = {"all": [("root", Secret("hunter2-of-a-test"))]}
    """)
    result = project.run("-p", "xdist", "-n", workers)
    assert "RuntimeError: no ***" in result.stdout.str()
    assert "hunter2-of" not in result.stdout.str()
    logs = [*project.path.rglob("log.txt")]
    assert [log.read_text() for log in logs] == ["from a test: ***\n"]


@pytest.mark.parametrize(
    "make", ["Secret('hunter2-late')", "ctx.secret('hunter2-late')", "state.update(a=[MADE])"]
)
def test_a_secret_is_known_before_its_step_ends(project: Project, make: str) -> None:
    """The step need not return it, and what the log has shown before is masked as well."""
    project.steps(f"""
        MADE = Secret("hunter2-late")

        @pytest.mark.plan_step
        def login(ctx, state):
            ctx.log("early hunter2-late")
            {make}
            raise RuntimeError("late hunter2-" + "late")
    """)
    project.tests("def test_it(login): pass")
    result = project.run("-ra")
    assert "E       RuntimeError: late ***" in result.stdout.str()
    assert "hunter2-late" not in result.stdout.str()
    logs = [*project.path.rglob("log.txt")]
    assert [log.read_text() for log in logs] == ["early ***\n"]


def test_the_secrets_of_a_cleanup_by_a_later_process_are_masked(project: Project) -> None:
    """A cleanup hook creates the secret; the process that recovers the environment knows it."""
    project.steps("""
        import os, signal

        def undo(number):
            Secret("hunter2-again")
            raise RuntimeError("cannot undo with hunter2-" + "again")

        @pytest.mark.plan_step
        def server(ctx):
            ctx.defer(undo, 1)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    project.tests("def test_it(server): pass")
    project.run_apart("-o", "plan_reaper=false")
    result = project.run("--plan-cleanup")
    assert "cannot undo with ***" in result.stdout.str() + result.stderr.str()
    assert "hunter2-again" not in result.stdout.str() + result.stderr.str()


def test_what_a_kept_program_writes_later_is_not_copied(project: Project) -> None:
    """The next run does not know the secrets, so the log holds only what this run has masked."""
    project.steps("""
        import sys

        TALK = '''
        import os, time
        while True:
            print(os.environ["KEY"], flush=True)
            time.sleep(0.05)
        '''

        @pytest.mark.plan_step
        def server(ctx):
            ctx.secret("hunter2-kept")
            ctx.start([sys.executable, "-c", TALK], env={"KEY": "hunter2-" + "kept"})
            ctx.sleep("0.5s")
            return 1
    """)
    project.tests("def test_it(server): pass")
    project.run_apart("--plan-keep=always")
    result = project.run_apart("--plan-reuse")
    result.assert_outcomes(passed=1)
    assert "reused" in result.stdout.str()
    project.run("--plan-cleanup")
    logs = [*project.path.rglob("log.txt")]
    assert any("***" in log.read_text() for log in logs)
    assert not any("hunter2-kept" in log.read_text() for log in logs)
