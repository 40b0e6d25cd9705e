"""Cleanup under xdist: once, in the controller, and only after every worker has exited."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import execnet
import pytest

from pytest_plan.plugin.session import controller
from tests.xdist.cluster import Cluster, once, outcomes, wait_until

STEPS = """
import psutil

def workers():
    children = psutil.Process().children()
    children = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    # The reaper is in another session.
    return len([child for child in children if os.getsid(child.pid) == os.getsid(0)])

@pytest.mark.plan_step
def db():
    yield "db"
    note("cleaned beside", workers(), "workers")

@pytest.mark.plan_step(eager=True, needs=())
def early():
    yield "early"
    note("early cleaned")
"""
CLEANED = ["cleaned beside 0 workers", "early cleaned"]


def test_error_of_another_plugin_in_sessionfinish(cluster: Cluster) -> None:
    """Cleanup runs once although another plugin's `pytest_sessionfinish` raises."""
    cluster.steps(
        STEPS,
        """
        def pytest_sessionfinish():
            if "PYTEST_XDIST_WORKER" not in os.environ:
                raise RuntimeError("not ours")
        """,
    )
    cluster.tests("def test_it(db): pass")
    result = cluster.two()
    assert result.ret == 1
    assert sorted(cluster.calls) == CLEANED


def test_error_of_another_plugin_in_sessionstart(cluster: Cluster) -> None:
    """Eager steps are cleaned up even if pytest never calls `pytest_sessionfinish`."""
    cluster.steps(STEPS)
    cluster.write(
        "other.py",
        """
        def pytest_sessionstart():
            raise RuntimeError("not ours")
        """,
    )
    cluster.tests("def test_it(db): pass")
    with cluster.start("-n", "2", "-p", "other") as live:
        wait_until(lambda: not live.is_running())
        assert "RuntimeError: not ours" in live.output()
    assert cluster.calls == ["early cleaned"]


def test_worker_that_stays_is_ended_first(cluster: Cluster) -> None:
    """A worker that xdist did not stop is ended before the cleanup of what it uses."""
    cluster.steps(
        STEPS,
        """
        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish():
            if "PYTEST_XDIST_WORKER" not in os.environ:
                raise RuntimeError("xdist does not get to end its workers")
        """,
    )
    cluster.tests(
        """
        import signal

        def test_stays(db, plan):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            note("stays")
            plan.state.wait_for("never")
        """
    )
    with cluster.start("-n", "1") as live:
        wait_until(lambda: cluster.calls == ["stays"])
        live.interrupt(group=False)
        result = live.end()
    assert result.ret != 0
    assert sorted(cluster.calls[1:]) == CLEANED


def test_interrupt_that_leaves_a_lock_unlocked_is_an_interrupt(cluster: Cluster) -> None:
    """Ctrl-C inside `queue.get`, which CPython can turn into a RuntimeError, interrupts the run."""
    cluster.steps(STEPS)
    cluster.write(
        "unlucky.py",
        """
        from xdist.dsession import DSession

        loop_once = DSession.loop_once

        def unlocked(session):
            try:
                loop_once(session)
            except KeyboardInterrupt:
                raise RuntimeError("release unlocked lock")

        DSession.loop_once = unlocked
        """,
    )
    cluster.tests(
        """
        def test_waits(db, plan):
            note("waits")
            plan.state.wait_for("never")
        """
    )
    with cluster.start("-n", "1", "-p", "unlucky") as live:
        wait_until(lambda: cluster.calls == ["waits"])
        live.interrupt(group=False)
        result = live.end()
        assert "INTERNALERROR" not in live.output()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert sorted(cluster.calls[1:]) == CLEANED


@pytest.mark.parametrize("spec", ["popen//via=far", "popen//python=docker exec -i box python"])
def test_worker_elsewhere_is_not_killed_by_its_pid(
    monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    """The pid of a worker on another machine or in a container is never used to kill it."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    monkeypatch.setattr(controller, "_GRACE", 0.0)
    monkeypatch.setattr(controller, "_KILL_WAIT", 0.0)
    gateway = SimpleNamespace(spec=execnet.XSpec(spec), id="gw0", newchannel=_Silent, _io=None)
    node = _Node(gateway)
    config: Any = SimpleNamespace(
        add_cleanup=lambda _: None,
        stash={},
        pluginmanager=SimpleNamespace(get_plugin=lambda _: None),
    )
    settings = SimpleNamespace(reuse=False)
    role = controller.Controller(config, settings)  # type: ignore[arg-type]
    role.pytest_configure_node(node)
    (server,) = role._servers.values()
    server.receive((0, "hello", 4321, "far"))
    role._wait_for_workers()
    assert killed == []


class _Node:
    """The attributes of xdist's worker node that the controller uses."""

    def __init__(self, gateway: object) -> None:
        self.gateway = gateway
        self.workerinput: dict[str, object] = {}


class _Silent:
    """A channel that never receives a message."""

    def setcallback(self, callback: object, endmarker: None) -> None:
        """Ignore the callback."""

    def send(self, message: object) -> None:
        """Drop the message."""


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("code", "status"),
    [("note('undo')", 0), ("note('undo'); raise OSError('stays')", 1), ("pytest.exit('no')", 2)],
    ids=["cleaned", "failed", "exit"],
)
def test_cleanup_ends_before_the_session_finishes(
    cluster: Cluster, code: str, status: int, workers: str
) -> None:
    """`pytest_sessionfinish` gets the exit status of the process, and everything is cleaned up."""
    test = "pass" if status < 2 else code
    undo = code if status < 2 else "note('undo')"
    cluster.steps(
        f"""
        @pytest.mark.plan_step
        def db():
            yield "db"
            {undo}

        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish(exitstatus):
            if "PYTEST_XDIST_WORKER" not in os.environ:
                note("finish", int(exitstatus))
        """
    )
    cluster.tests(f"def test_it(db): {test}")
    result = cluster.apart("-n", workers)
    assert result.ret == status
    assert cluster.calls == ["undo", f"finish {status}"]


def test_signal_during_the_cleanup_of_a_green_run(cluster: Cluster) -> None:
    """A signal during cleanup makes the run red before `pytest_sessionfinish` is called."""
    cluster.steps(
        """
        import time

        @pytest.mark.plan_step
        def db():
            yield "db"
            note("undo")
            while not os.path.exists("signalled"):
                time.sleep(0.01)

        def pytest_sessionfinish(exitstatus):
            note("finish", int(exitstatus))
        """
    )
    cluster.tests("def test_it(db): pass")
    with cluster.start() as live:
        wait_until(lambda: cluster.calls == ["undo"])
        os.kill(live.pid, signal.SIGTERM)
        wait_until(lambda: "still cleaning up" in live.output())
        cluster.write("signalled", "")
        result = live.end()
    assert result.ret == 143
    assert cluster.calls == ["undo", "finish 2"]
    assert outcomes(result) == {"passed": 1}


def test_failed_cleanup_is_reported_once(cluster: Cluster) -> None:
    """A failed cleanup is one error with the step's name, and the other cleanups still run."""
    cluster.steps("""
    @pytest.mark.plan_step
    def net():
        yield
        note("net cleaned")

    @pytest.mark.plan_step
    def db(net):
        yield
        raise RuntimeError("still in use")
    """)
    cluster.tests("def test_it(db): pass")
    result = cluster.two()
    assert outcomes(result) == {"passed": 1, "errors": 1}
    assert result.ret == 1
    assert result.stdout.str().count("ERROR at teardown of plan step 'db'") == 1
    assert cluster.calls == ["net cleaned"]


def test_fixtures_of_workers_are_torn_down_before_cleanup(cluster: Cluster) -> None:
    """A worker's session fixture can still use the environment in its teardown."""
    cluster.steps(
        STEPS,
        """
        @pytest.fixture(scope="session")
        def client(db, plan):
            yield
            with plan.state.lock("teardown"):
                plan.state["seen"] = plan.state.get("seen", 0) + 1
                note("client of", plan.state["db"], plan.state["seen"])
        """,
    )
    for name in ("one", "other"):
        cluster.tests("def test_it(client): pass", name=f"test_{name}.py")
    result = cluster.two()
    assert outcomes(result) == {"passed": 2}
    assert cluster.calls[:2] == ["client of db 1", "client of db 2"]
    assert sorted(cluster.calls[2:]) == CLEANED
    once(result, "db", "early")


@pytest.mark.parametrize("plugin", ["no:terminal", "no:timeout"])
def test_other_plugins_may_be_missing(cluster: Cluster, plugin: str) -> None:
    """Runs work without pytest's terminal plugin and without pytest-timeout."""
    cluster.steps(STEPS)
    cluster.tests("def test_it(db): pass")
    with cluster.start("-n", "2", "-p", plugin) as live:
        assert live.end().ret == 0
    assert sorted(cluster.calls) == CLEANED
