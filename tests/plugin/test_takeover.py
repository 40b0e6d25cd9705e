"""A shared environment whose owner is lost: other runs go on, and one process cleans up, once."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.sharing.model import Joining, View
from pytest_plan.sharing.protocol import Store
from pytest_plan.sharing.urls import open_store
from pytest_plan.steps.servers import redis
from tests.plugin.project import Project, until
from tests.plugin.sharing_runs import Runs, ended
from tests.sharing.runs import member
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
    held("drop")
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

def test_net(net):
    assert net == "the net"
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
    assert shared.calls == ["net", "db", *(one.format(3) for one in CLEANUP)]
    shared.all_gone()


def test_undecided_steps_block_tests_when_the_owner_is_killed(shared: Shared) -> None:
    """A member uses what was provisioned; what was not is blocked, with the reason."""
    owner = shared.run.held("step")
    member = shared.run("-v")
    until(member, "provisions db")
    owner.kill()
    owner.communicate()
    said = ended(member, 1)
    assert f"{lost(owner)} while it provisioned 'db'" in said
    assert "1 passed, 1 blocked" in said, said
    shared.until(lambda view: view.done_ago is not None)
    assert shared.calls == ["net", "drop the net 0", "undo net"]
    shared.all_gone()


def test_a_second_signal_leaves_the_environment_to_the_reaper(shared: Shared) -> None:
    """The owner ends at once; a member goes on, and the cleanup waits for it."""
    owner = shared.run.held("owner")
    member = shared.run.held("member", "-v")
    shared.run.release("owner")
    until(owner, "cleanup waits")
    owner.send_signal(signal.SIGINT)
    SystemClock.sleep(0.6)
    owner.send_signal(signal.SIGINT)
    said = ended(owner, 2)
    assert "a second signal has ended the wait: 'build-7' is left to another process" in said
    assert shared.calls == ["net", "db"]
    shared.until(lambda view: view.is_caretaker and view.is_owner_alive)
    shared.run.release("member")
    assert "2 passed" in ended(member)
    shared.until(lambda view: view.done_ago is not None)
    assert shared.calls == ["net", "db", *(one.format(2) for one in CLEANUP)]
    shared.all_gone()


@pytest.mark.parametrize("shared", ["redis"], indirect=True)
def test_a_stopped_owner_is_fenced(shared: Shared) -> None:
    """After its lease, the environment is another run's: it cleans up nothing, and ends."""
    owner = shared.run.held("owner", "-v")
    member = shared.run.held("member", "-v")
    owner.send_signal(signal.SIGSTOP)
    shared.until(lambda view: view.is_caretaker)
    shared.run.release("member")
    assert "cleaning up 'build-7'" in ended(member)
    calls = ["net", "db", *(one.format(1) for one in CLEANUP)]
    assert shared.calls == calls
    owner.send_signal(signal.SIGCONT)
    shared.run.release("owner")
    said = ended(owner, 1)
    assert "1 failed, 1 blocked" in said, said
    assert "this run has cleaned up nothing, but it" in said, said
    assert shared.calls == calls
    shared.all_gone()


@pytest.mark.parametrize("shared", ["redis"], indirect=True)
def test_a_silent_server_is_no_reason_to_leave_anything(shared: Shared) -> None:
    """A member blocks its tests and cleans up nothing; the owner cleans up, and says so."""
    assert shared.server is not None
    owner = shared.run.held("owner", "-v")
    member = shared.run.held("member", "-v")
    shared.server.signal(signal.SIGSTOP)
    shared.run.release("member")
    said = ended(member, 1)
    assert f"127.0.0.1:{shared.server.port}/0 has not answered for" in said, said
    assert "1 failed, 1 blocked" in said, said
    assert shared.calls == ["net", "db"]
    shared.run.release("owner")
    said = ended(owner, 1)
    assert "1 failed, 1 blocked" in said, said
    assert "cleaned up without the server: other runs may have been testing" in said, said
    assert shared.calls == ["net", "db", *(one.format(0) for one in CLEANUP)]
    shared.all_gone()


def test_an_heir_cleans_up_before_it_provisions(shared: Shared) -> None:
    """With the same key, the next run undoes all; with another one, it names what is left."""
    no_reaper = ("-o", "plan_reaper=false")
    owner = shared.run.held("owner", *no_reaper, PYTEST_PLAN_KEY="ab" * 32)
    owner.kill()
    owner.communicate()
    shared.until(lambda view: not view.is_owner_alive)
    heir = shared.run.held("owner", *no_reaper, PYTEST_PLAN_KEY="ab" * 32)
    cleaned = [one.format(0) for one in CLEANUP]
    assert shared.calls == ["net", "db", *cleaned, "net", "db"]
    heir.kill()
    heir.communicate()
    if shared.server is not None:
        shared.until(lambda view: not view.is_owner_alive)
        said = ended(shared.run(PYTEST_PLAN_KEY="cd" * 32), 1)
        assert (
            "is left to the machine of a run that was lost: db, net; other runs can clean up if"
            in said
        )
        assert shared.calls[7:] == ["net", "db", *(one.format(1) for one in CLEANUP)]
        shared.run.share = []
        ended(shared.run("--plan-cleanup", PYTEST_PLAN_KEY="ab" * 32))
        assert shared.calls[12:] == cleaned
    else:
        assert "2 passed" in ended(shared.run(PYTEST_PLAN_KEY="ab" * 32))
        assert shared.calls[7:] == [*cleaned, "net", "db", *(one.format(1) for one in CLEANUP)]


@pytest.mark.parametrize("shared", ["redis"], indirect=True)
def test_an_owner_that_is_lost_before_it_publishes_leaves_nothing(shared: Shared) -> None:
    """A member blocks its tests, and nothing is said about a cleanup."""
    ended(shared.run())
    plan = shared.until(lambda view: view.done_ago is not None).project
    store = open_store(shared.url, Path())
    store.join("build-7", Joining(member(), plan, lease=8.0))
    store.shut()
    said = [ended(shared.run(), 1), ended(shared.run())]
    assert "2 blocked" in said[0]
    assert "was not cleaned up" not in "".join(said)
    assert len(shared.calls) == 2 * len(["net", "db", *CLEANUP])


@pytest.mark.parametrize("shared", ["redis"], indirect=True)
def test_an_owner_that_is_stopped_while_it_cleans_up_goes_no_further(shared: Shared) -> None:
    """An heir runs the cleanups that are left; the old owner makes no further call of them."""
    owner = shared.run.held("drop", "-v")
    owner.send_signal(signal.SIGSTOP)
    shared.until(lambda view: not view.is_owner_alive)
    heir = shared.run.held("owner", "-v")
    assert shared.calls == ["net", "db", "drop the db 1", "drop the net 1", "undo net", "net", "db"]
    owner.send_signal(signal.SIGCONT)
    shared.run.release("drop")
    shared.run.release("owner")
    assert "2 passed" in ended(heir)
    said = ended(owner, 1)
    assert "this run has ended its cleanup early" in said, said
    assert shared.calls[7:] == [one.format(1) for one in CLEANUP]
    shared.all_gone()
