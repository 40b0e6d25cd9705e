"""A shared environment whose owner is lost: other runs go on, and one process cleans up, once."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.sharing.model import View
from pytest_plan.sharing.protocol import Store
from pytest_plan.sharing.urls import open_store
from pytest_plan.steps.servers import redis
from tests.plugin.project import Project
from tests.plugin.sharing_runs import Runs, ended
from tests.plugin.sharing_runs import runs as runs  # noqa: PLC0414 - a fixture
from tests.sharing.servers import Program, missing, redis_server

STEPS = """
from pathlib import Path
import sys
import time

HERE = Path(__file__).parent

def held(name):
    if os.environ.get("HELD", "") == name:
        HERE.joinpath(f"{name}.reached").touch()
        while not HERE.joinpath(name).exists():
            time.sleep(0.02)

def drop(value, state):
    note("drop", value, state.get("count"))

def undo(what):
    note("undo", what)

@pytest.mark.plan_step(cleanup=drop)
def net(ctx, state):
    note("net")
    state["count"] = 0
    ctx.defer(undo, "net")
    process = ctx.start([sys.executable, "-c", "import time; time.sleep(600)"])
    note("pid", process.pid)
    return "the net"

@pytest.mark.plan_step(cleanup=drop)
def db(net):
    held("step")
    note("db")
    return "the db"
"""
TESTS = """
import conftest

def add(plan):
    with plan.state.lock("count", timeout="20s"):
        plan.state["count"] += 1

def test_db(db, plan):
    conftest.held("owner")
    conftest.held("member")
    add(plan)

def test_net(net, plan):
    add(plan)
"""
_LONGEST = 30.0  # seconds


class Shared:
    """Runs on one machine that share an environment on a server, or without one.

    Attributes:
        run: starts a run.
        url: the URL of the store.
    """

    def __init__(self, project: Project, run: Runs, url: str, server: Program | None) -> None:
        project.steps(STEPS)
        project.tests(TESTS)
        project.write("pytest.ini", "[pytest]\nplan_share_lease = 1\n")
        self.run = run
        self.url = url
        self.server = server
        self._project = project
        run.share = ["--plan-environment", "build-7"]
        self.run.variables["PYTEST_PLAN_SHARE"] = url

    @property
    def calls(self) -> list[str]:
        """What steps and cleanups have done, without the ids of processes."""
        return [call for call in self._project.calls if not call.startswith("pid ")]

    def until(self, is_so: Callable[[View], bool]) -> View:
        """Wait until the environment is so."""
        store: Store = open_store(self.url, self._project.path / ".pytest_plan")
        try:
            limit = SystemClock.now() + _LONGEST
            while True:
                view = store.view("build-7")
                if view is not None and is_so(view):
                    return view
                assert SystemClock.now() < limit, view
                SystemClock.sleep(0.02)
        finally:
            store.shut()

    def all_gone(self) -> None:
        """Wait until the programs of steps have ended and no journal is left."""
        limit = SystemClock.now() + _LONGEST
        pids = [int(call.split()[1]) for call in self._project.calls if call.startswith("pid ")]
        left = self._project.path / ".pytest_plan" / "environments"
        while any(_lives(pid) for pid in pids) or list(left.glob("*")):
            assert SystemClock.now() < limit, (pids, list(left.rglob("*")))
            SystemClock.sleep(0.02)


def _lives(pid: int) -> bool:
    with suppress(OSError):
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


CLEANUP = ["drop the db {}", "drop the net {}", "undo net"]


@pytest.fixture(params=["local", "redis"])
def shared(request: pytest.FixtureRequest, project: Project, runs: Runs) -> Iterator[Shared]:
    """Return what starts runs that share an environment."""
    if request.param == "local":
        yield Shared(project, runs, "local", None)
        return
    if why := missing(redis.KIND):
        pytest.skip(why)
    with redis_server() as server:
        yield Shared(project, runs, server.url, server)


def lost(owner: subprocess.Popen[str]) -> str:
    """Return the message that an owner was lost."""
    return f"the owner {platform.node()} (process {owner.pid}) was lost"


def test_members_go_on_when_the_owner_is_killed(shared: Shared) -> None:
    """What was provisioned stays until the last member has left; then one process cleans up."""
    owner = shared.run.held("owner")
    members = [shared.run.held("member", "-v") for _ in range(2)]
    owner.kill()
    owner.communicate()
    shared.until(lambda view: view.is_caretaker and view.is_owner_alive)
    assert shared.calls == ["net", "db"]
    late = ended(shared.run())
    assert "2 passed" in late
    shared.run.release("member")
    said = [ended(member) for member in members]
    assert all("test_net PASSED" in text for text in said)
    shared.until(lambda view: view.done_ago is not None)
    assert shared.calls == ["net", "db", *(one.format(6) for one in CLEANUP)]
    shared.all_gone()
