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
