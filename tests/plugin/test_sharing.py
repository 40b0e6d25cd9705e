"""`--plan-share`: several runs use one environment, which one of them provisions and cleans up."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_plan.engine.journal.seal import Key
from pytest_plan.plugin.interface import sharing
from pytest_plan.plugin.run.environments.sharing.trust.seals import RowSeals
from pytest_plan.sharing.errors import StaleError
from pytest_plan.sharing.model import Access, Kind, Status
from pytest_plan.steps.servers import postgresql, redis
from pytest_plan.steps.servers.programs import Kind as Server
from tests.plugin.project import Project, refuses, until
from tests.plugin.sharing_runs import (
    STEPS,
    TESTS,
    Runs,
    ended,
    nothing_left,
    opened,
)
from tests.sharing.servers import (
    PASSWORD,
    QUOTED,
    Program,
    missing,
    postgresql_server,
    redis_server,
)


def test_runs_at_the_same_time_provision_and_clean_up_once(runs: Runs, project: Project) -> None:
    """Eight runs have one provisioning and one cleanup, exact counts, and the same values."""
    shards = [runs("--plan-share-runs", "8", f"--plan-report={n}.json") for n in range(8)]
    said = [ended(shard) for shard in shards]
    assert project.calls == ["net", "clean success 80"]
    reports = [json.loads((project.path / f"{n}.json").read_text()) for n in range(8)]
    roles = sorted(report["share"]["role"] for report in reports)
    assert roles == ["member"] * 7 + ["owner"]
    owner = next(report["share"] for report in reports if report["share"]["role"] == "owner")
    assert len(owner["members"]) <= 7
    assert owner["environment"] == "default"
    assert owner["epoch"] == 1
    assert {report["share"]["id"] for report in reports} == {owner["id"]}
    assert {report["share"]["owner"] for report in reports} == {owner["owner"]}
    assert all("--plan-share local" in report["command"] for report in reports)
    for report, text in zip(reports, said, strict=True):
        net = next(step for step in report["steps"] if step["name"] == "net")
        if report["share"]["role"] == "member":
            assert re.fullmatch(r"provisioned by .* in \d.*s", net["reason"])
            assert net["reason"] in text
            assert (net["outcome"], net["started"]) == ("reused", None)
    nothing_left(project)
    again = ended(runs())
    assert "was cleaned up" in again
    assert "ago: this run provisions it again" in again


def test_the_owner_publishes_before_a_step_runs(runs: Runs, project: Project) -> None:
    """While a step runs, the store has its outcome `running` and its record in the journal."""
    owner = runs.held("step")
    with opened(project) as store:
        view = store.view("default")
        assert view is not None
        access = Access(view.environment, "")
        outcomes = store.rows(access, Kind.OUTCOME)
        assert [(row.key, json.loads(row.text)[0]) for row in outcomes] == [("net", "running")]
        seals = RowSeals(view.environment, Key.of(os.environ), is_local=True)
        rows = [seals.open(row) for row in store.rows(access, Kind.JOURNAL)]
        journal = [json.loads(row.text) for row in rows if row is not None]
        begun = [
            values for sql, values in journal if sql.startswith("INSERT OR REPLACE INTO step ")
        ]
        assert None not in rows
        assert [values[0] for values in begun] == ["net"]
        runs.release("step")
        assert "2 passed" in ended(owner)
        left = store.view("default")
        assert left is not None
        assert left.status is Status.DONE
        with pytest.raises(StaleError, match="does not exist any more"):
            store.rows(access, Kind.STATE)


def test_owner_waits_for_a_member_that_tests(runs: Runs, project: Project) -> None:
    """A late member uses the environment after the owner's tests and Ctrl-C, and it stays."""
    owner = runs.held("step")
    member = runs("-v", HELD="test", RED="yes")
    assert "provisions net" in until(member, "this run waits")
    runs.release("step")
    until(member, "plan: db")
    line = until(owner, "cleanup waits")
    assert "1 other run still uses 'default'" in line
    assert f"process {member.pid}" in line
    owner.send_signal(signal.SIGINT)
    assert project.calls == ["net"]
    runs.release("test")
    said = ended(member, 1)
    assert "test_one PASSED" in said
    ended(owner, 2)
    assert project.calls == ["net", "clean cancelled 20"]
    nothing_left(project)


SERVED = """
import signal
import sys

@pytest.mark.plan_step
def served(ctx):
    process = ctx.start([sys.executable, "-c", "import time; time.sleep(600)"])
    note("pid", process.pid)
    return process.pid

@pytest.mark.plan_step
def data(served):
    return served
"""
OF_SERVED = """
import conftest

def test_one(data):
    conftest.held("first")
    conftest.held("second")

def test_two(data, plan):
    for _ in range(500):
        plan.need("data")  # fails as soon as it is lost
        conftest.time.sleep(0.02)

def test_three(data):
    pass
"""


def test_members_block_tests_when_a_program_of_the_owner_ends(runs: Runs, project: Project) -> None:
    """A step that is lost in the owner is lost for its members, and for what needs it."""
    project.steps(STEPS, SERVED)
    project.tests(OF_SERVED)
    owner = runs.held("first")
    member = runs.held("second")
    os.kill(int(project.calls[-1].split()[1]), signal.SIGKILL)
    runs.release("first")
    until(owner, "cleanup waits")
    runs.release("second")
    said = ended(member, 1)
    assert f"plan step 'served' of {platform.node()} (process {owner.pid}) was lost at" in said
    assert "1 test blocked: plan step 'served' of" in said or "2 tests blocked:" in said
    ended(owner, 1)
    nothing_left(project)


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode != 0,
    reason="this process may not create a network namespace",
)
def test_a_loopback_address_of_another_machine_is_a_warning(runs: Runs, project: Project) -> None:
    """A member that does not reach the owner's loopback interface is told of the step, once."""
    local = "@pytest.mark.plan_step\ndef url(ctx): return f'http://{ctx.host}:80'"
    project.steps(STEPS, local)
    owner = runs.held("test")
    runs.before = ["unshare", "-n"]
    said = ended(runs())
    runs.release("test")
    ended(owner)
    assert said.count("the value of step 'url' contains '127.0.0.1', which is the machine of") == 1
    assert "with --plan-host and an address" in said


def test_members_show_why_the_owner_could_not_provision(runs: Runs, project: Project) -> None:
    """A failed step is a failure of the owner alone; a member is blocked, with the step's log."""
    owner = runs.held("step", BROKEN="yes")
    member = runs("-v")
    until(member, "this run waits")
    runs.release("step")
    said = ended(member, 1)
    assert "plan step 'db' did not run: it failed in" in said
    assert "ValueError: no disk" in said
    assert said.count("last words of db") == 1
    assert "1 passed, 1 blocked" in said
    assert "1 passed, 1 error, 1 blocked" in ended(owner, 1)
    assert project.calls == ["net", "clean failure 0"]
    nothing_left(project)


WORKERS = """
@pytest.mark.plan_step(per="worker")
def schema(ctx, net):
    note("schema", ctx.worker)
    yield f"{net['pid']} {ctx.worker}"
    note("drop", ctx.worker)
"""
OF_WORKERS = """
@pytest.mark.parametrize("number", range(6))
def test_many(schema, net, plan, number):
    assert schema.split()[0] == str(net["pid"]) and os.environ["NET"] == "there"
    for _ in range(5):
        with plan.state.lock("count", timeout="20s"):
            plan.state["count"] += 1
    plan.state[f"seen {schema}"] = {"at": (1, 2), "in": {3}}
    assert plan.state[f"seen {schema}"] == {"at": (1, 2), "in": {3}}
    steps = [key for key in (*plan.state, *plan.state.snapshot()) if key.startswith("schema")]
    of_run = schema.split()[1].partition("-")[0]
    assert steps and all(key == "schema" or of_run in key for key in steps)
    if number == 0:
        with pytest.raises(StateError, match="'seen' cannot be shared .* 'complex'"):
            plan.state["seen"] = 1j
"""


@pytest.mark.parametrize(
    ("kind", "start"), [(redis.KIND, redis_server), (postgresql.KIND, postgresql_server)],
    ids=["redis", "postgresql"],
)  # fmt: skip
def test_servers_serve_runs_with_workers(
    runs: Runs, project: Project, kind: Server, start: Callable[[], AbstractContextManager[Program]]
) -> None:
    """With workers and a server, there is one provisioning, and each worker has its own steps."""
    if why := missing(kind):
        pytest.skip(why)
    project.steps(STEPS, WORKERS)
    project.tests("from pytest_plan import StateError", OF_WORKERS)
    with start() as server:
        runs.share = ["--plan-environment", "build-7"]
        secret = {"PYTEST_PLAN_SHARE": server.url, "CI_NODE_TOTAL": "3"}
        shards = [runs("-p", "xdist", "-n2", **secret) for _ in range(2)]
        shards.append(runs("--plan-report=solo.json", GITHUB_JOB="tests (3)", **secret))
        said = "".join(ended(shard) for shard in shards)
        again = ended(runs("--co", "-q", **secret))
    assert [call for call in project.calls if "schema" not in call and "drop" not in call] == [
        "net", "clean success 90",
    ]  # fmt: skip
    made, dropped = (
        sorted(call.split()[1] for call in project.calls if call.startswith(word))
        for word in ("schema", "drop")
    )
    assert made == dropped
    assert len(set(made)) == 5
    assert PASSWORD not in said
    assert QUOTED not in said
    assert "shared environment" not in again
    nothing_left(project)


def test_a_run_that_needs_no_step_does_not_join(runs: Runs, project: Project) -> None:
    """Neither does it make others wait for its steps, nor are its tests waited for."""
    project.tests(TESTS, "def test_three(): conftest.held('unit')")
    unit = runs.held("unit", "-k", "test_three")
    assert "2 passed" in ended(runs("-k", "not test_three"))
    runs.release("unit")
    said = ended(unit)
    assert "1 passed" in said
    assert "shared environment" not in said


def test_shards_with_other_arguments_have_the_same_plan(runs: Runs, project: Project) -> None:
    """Each shard knows the steps of all conftests under testpaths, also those of the same name."""
    project.write("pytest.ini", "[pytest]\ntestpaths = . b\naddopts = --import-mode=importlib\n")
    for folder in "ab":
        steps = f"@pytest.mark.plan_step\ndef own(net):\n    note('own {folder}')\n    return net"
        project.steps(steps, name=f"{folder}/conftest.py")
        project.tests("def test_own(own, net): assert own == net", name=f"{folder}/test_it.py")
    shards = [runs("--plan-share-runs=2", folder) for folder in "ab"]
    assert all("1 passed" in ended(shard) for shard in shards)
    assert sorted(project.calls) == ["clean success 0", "net", "own a", "own b"]


@pytest.mark.parametrize(
    ("variables", "name", "runs"),
    [
        ("GITHUB_RUN_ID=7 GITHUB_RUN_ATTEMPT=2 GITHUB_JOB=tests", "7.2.tests", 0),
        ("CI_PIPELINE_ID=9 CI_JOB_NAME=unit~tests~3/8 CI_NODE_TOTAL=8", "9.unit-tests", 8),
        (
            "BUILDKITE_BUILD_ID=b1 BUILDKITE_STEP_KEY=e2e BUILDKITE_PARALLEL_JOB_COUNT=4",
            "b1.e2e",
            4,
        ),
        ("GITHUB_RUN_ID= CI_PIPELINE_ID=9 CI_JOB_NAME=a:b~[x/y]", "9.a-b--x-y-", 0),
        (f"CI_PIPELINE_ID=9 CI_JOB_NAME={'a' * 70}b", f"9.{'a' * 53}-dccc9b82", 0),
    ],
)
def test_ci_systems_give_the_name_and_the_number_of_runs(
    variables: str, name: str, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All jobs of a matrix get the same name, which another pipeline does not have."""
    for variable in ("GITHUB_RUN_ID", "CI_PIPELINE_ID", "BUILDKITE_BUILD_ID", "CI_NODE_TOTAL"):
        monkeypatch.delenv(variable, raising=False)
    for each in variables.split():
        variable, _, value = each.partition("=")
        monkeypatch.setenv(variable, value.replace("~", " "))
    settings: Any = SimpleNamespace(share="redis://server", environment=None, share_runs=None)
    assert sharing.name_of(settings) == name
    assert sharing.runs_of(settings) == runs
    settings.share = "local"
    assert sharing.name_of(settings) == "default"
    assert sharing.runs_of(settings) == 0


def test_bad_options_are_usage_errors(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot work with a shared environment is one message with the cure, before any step."""
    for name in ("GITHUB_RUN_ID", "CI_PIPELINE_ID", "BUILDKITE_BUILD_ID"):
        monkeypatch.delenv(name, raising=False)
    project.steps(STEPS)
    project.tests(TESTS)
    server = ("--plan-share", "redis://127.0.0.1:1")
    refuses(project.run(*server), "--plan-environment NAME")
    assert project.run(*server, "--plan-cleanup").ret == 0  # a command needs no name
    refuses(project.run("--plan-share=local", "--plan-share-steps=nett"), "did you mean 'net'")
    refuses(project.run(*server, "--plan-keep", "always"), "--plan-keep and --plan-share cannot")
    refuses(project.run("--plan-share", "ftp://x", "--plan-environment=a"), "begins with 'ftp'")
    refuses(project.run("--plan-share", "local", "-o", "plan_share_lease=0.5"), "at least 1s")
    project.tests(TESTS, "@pytest.mark.plan_alone\ndef test_three(): pass")
    refuses(project.run("--plan-share", "local"), "test_three is marked plan_alone")
    project.tests(TESTS)
    project.steps(STEPS, "@pytest.mark.plan_step(after_tests=True)\ndef late(db): pass")
    refuses(project.run("--plan-share", "local"), "'late' (conftest.py:", "after_tests")
    assert project.calls == []


def test_a_step_of_an_owner_fails_if_the_store_has_lost_the_environment(project: Project) -> None:
    """The step has the reason, and there is no internal error."""
    project.steps(
        """
        import shutil

        @pytest.mark.plan_step
        def net(ctx, state):
            shutil.rmtree(".pytest_plan/shared")
            state["count"] = 1
        """
    )
    project.tests("def test_one(net): pass")
    said = ended(Runs(project)(), 1)
    assert "does not exist any more: it was cleaned up, or the server has lost its data" in said
    assert "1 error" in said


def test_an_environment_that_is_lost_after_a_run_has_joined(project: Project) -> None:
    """If the store loses an environment before the run begins, the run ends with one message."""
    project.steps(
        """
        import shutil
        from pytest_plan.plugin.run.environments.sharing.state import EnvironmentStore

        def connect(store, link, *args):
            shutil.rmtree(".pytest_plan/shared")
            link.store.shut()
            right(store, link, *args)
            store.versions()

        right, EnvironmentStore.connect = EnvironmentStore.connect, connect

        @pytest.mark.plan_step
        def net():
            pass
        """
    )
    project.tests("def test_one(net): pass")
    said = ended(Runs(project)(), 4)
    assert "does not exist any more: it was cleaned up, or the server has lost its data" in said
