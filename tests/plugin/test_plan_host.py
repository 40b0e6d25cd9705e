"""The option `--plan-host`: the address that steps give to tests."""

from __future__ import annotations

import re

import pytest

from tests.plugin.project import Project, refuses

STEPS = """
def stop(ctx):
    note("stop", ctx.host)

@pytest.mark.plan_step(needs=(), cleanup=stop)
def web(ctx):
    note("web", ctx.host)
    return ctx.host

@pytest.mark.plan_step(needs=())
def plain():
    note("plain")
    return 1

@pytest.mark.plan_step(cleanup=stop)
def user(web):
    return web
"""


def test_a_step_gets_the_address_from_each_source(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is 127.0.0.1 by default; the command line comes first, then the environment, then ini."""
    project.steps(STEPS)
    project.tests("def test_it(web): pass")
    assert project.run().ret == 0
    project.write("pytest.ini", "[pytest]\nplan_host = 127.0.0.3\n")
    assert project.run().ret == 0
    monkeypatch.setenv("PYTEST_PLAN_HOST", "127.0.0.4")
    assert project.run().ret == 0
    assert project.run("--plan-host", "127.0.0.5").ret == 0
    seen = ["127.0.0.1", "127.0.0.3", "127.0.0.4", "127.0.0.5"]
    assert project.calls == [line for host in seen for line in (f"web {host}", f"stop {host}")]


def test_what_is_no_address_is_a_usage_error_that_names_its_source(project: Project) -> None:
    """So is one that is empty; no step begins."""
    project.steps(STEPS)
    project.tests("def test_it(web): pass")
    refuses(
        project.run("--plan-host", "10.0.0.5:80"),
        "ERROR: --plan-host: '10.0.0.5:80' is not the address of a machine; use an IP address",
    )
    refuses(project.run("--plan-host="), "--plan-host: the address of this machine is missing")
    refuses(
        project.run("--plan-host", "name.invalid"),
        "ERROR: --plan-host: this machine does not know 'name.invalid' (",
    )
    project.write("pytest.ini", "[pytest]\nplan_host = 0.0.0.0\n")
    refuses(project.run(), "plan_host in pytest.ini: '0.0.0.0' means all addresses, to which")
    assert project.calls == []


def test_with_another_address_the_steps_that_can_ask_for_it_are_rebuilt(project: Project) -> None:
    """The line says why. Their cleanup sees the address with which they were provisioned."""
    project.steps(STEPS)
    project.tests("def test_it(user, plain): assert user == os.environ['HERE']")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERE", "127.0.0.2")
        args = ("--plan-reuse", "--plan-host", "127.0.0.2")
        assert project.run_apart(*args).ret == 0
        assert project.run_apart(*args).ret == 0
        assert sorted(project.calls) == ["plain", "web 127.0.0.2"]
        patch.setenv("HERE", "127.0.0.1")
        output = project.run_apart("--plan-reuse").stdout.str()
    assert project.calls[2:] == ["stop 127.0.0.2", "stop 127.0.0.2", "web 127.0.0.1"]
    words = re.sub(r" +", " ", output)
    assert "web is rebuilt: --plan-host" in words
    assert "user is rebuilt: --plan-host" in words
    assert "plan: plain reused" in words
    assert project.run_apart("--plan-cleanup", "--plan-host", "127.0.0.9").ret == 0
    assert project.calls[5:] == ["stop 127.0.0.1", "stop 127.0.0.1"]
