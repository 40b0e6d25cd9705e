"""Workers that die in every way and at every moment: the State is kept, and cleanup runs once."""

from __future__ import annotations

import re
import signal

import pytest

from tests.xdist.cluster import (
    Cluster,
    forget_folders,
    once,
    outcomes,
    wait_until,
)
from tests.xdist.conftest import MakeCluster

NO_REAPER = ("-o", "plan_reaper=false")  # which would kill the workers
STEPS = """
@pytest.mark.plan_step
def db(ctx, state):
    note("db")
    ctx.setenv("DB_URL", "tcp://db")
    state["log"] = []
    yield "db"
    note("cleaned", *sorted(state["log"]))
"""
DEATHS = {
    "exit": "os._exit(7)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "segfault": "ctypes.string_at(0)",
}
HEAD = """
import ctypes, faulthandler, signal, threading

pytestmark = pytest.mark.plan("db")

def log(state, what):
    while not state.compare_and_swap("log", old := state["log"], [*old, what]):
        pass
"""
TESTS = """
@pytest.fixture
def dies_in_setup(plan):
    log(plan.state, "death")
    {code}

@pytest.fixture
def dies_in_teardown(plan):
    yield
    log(plan.state, "death")
    {code}

def test_setup(dies_in_setup): pass

def test_call(plan):
    log(plan.state, "death")
    {code}

def test_teardown(dies_in_teardown): pass

@pytest.mark.parametrize("number", range(6))
def test_survives(plan, db, number):
    assert db == "db" and os.environ["DB_URL"] == "tcp://db"
    log(plan.state, str(number))
"""


@pytest.fixture(scope="module", params=DEATHS)
def death(request: pytest.FixtureRequest) -> str:
    """How the worker dies."""
    return str(request.param)


@pytest.fixture(scope="module", params=["setup", "call", "teardown"])
def moment(request: pytest.FixtureRequest) -> str:
    """The phase of the test in which the worker dies."""
    return str(request.param)


@pytest.fixture(scope="module")
def dead_worker(
    make_cluster: MakeCluster, death: str, moment: str
) -> tuple[Cluster, pytest.RunResult]:
    """A run in which one of two workers dies."""
    cluster = make_cluster(f"{death}_in_{moment}")
    cluster.steps(STEPS)
    cluster.tests(HEAD + TESTS.format(code=DEATHS[death]))
    # Only one worker dies: if several die at once, pytest-xdist itself sometimes loses tests.
    return cluster, cluster.two("-p", "no:faulthandler", "-k", f"{moment} or survives")


class TestDeathOfAWorker:
    """A worker dies in any phase of a test."""

    def test_is_reported_as_xdist_does(
        self, dead_worker: tuple[Cluster, pytest.RunResult], moment: str
    ) -> None:
        """The test that killed its worker fails under its own name."""
        failed = [line for line in dead_worker[1].outlines if line.startswith("FAILED")]
        assert len(failed) == 1
        assert failed[0].startswith(f"FAILED test_it.py::test_{moment}")

    def test_every_other_test_passes(
        self, dead_worker: tuple[Cluster, pytest.RunResult], moment: str
    ) -> None:
        """Every other test passes; a test that died in its teardown also counts as passed."""
        passed = 6 + (moment == "teardown")
        assert outcomes(dead_worker[1]) == {"failed": 1, "passed": passed}
        assert dead_worker[1].ret == 1

    def test_keeps_the_whole_state(self, dead_worker: tuple[Cluster, pytest.RunResult]) -> None:
        """Everything that each test wrote before its death is in the State at cleanup."""
        assert dead_worker[0].calls == ["db", "cleaned 0 1 2 3 4 5 death"]

    def test_provisions_and_cleans_up_once(
        self, dead_worker: tuple[Cluster, pytest.RunResult]
    ) -> None:
        """A replacement worker does not provision again."""
        once(dead_worker[1], "db")


def test_lock_is_freed_when_its_holder_dies(cluster: Cluster) -> None:
    """A thread that waits for the lock of a killed worker gets it immediately.

    Other threads of the killed worker were waiting for a key and for another lock.
    """
    cluster.steps(STEPS)
    cluster.tests(
        HEAD,
        """
    def test_holder(plan):
        def wait_for_lock():
            with plan.state.lock("second"): pass
        threading.Thread(target=plan.state.wait_for, args=("never",), daemon=True).start()
        with plan.state.lock("first"):
            plan.state["held"] = True
            plan.state.wait_for("has second", 20)
            threading.Thread(target=wait_for_lock, daemon=True).start()
            plan.state.wait_for("is waiting", 20)
            os.kill(os.getpid(), signal.SIGKILL)
    """,
        name="test_holder.py",
    )
    cluster.tests(
        HEAD,
        """
    import time

    def test_heir(plan):
        with plan.state.lock("second"):
            plan.state["has second"] = True
            plan.state.wait_for("held", 20)
            with pytest.raises(TimeoutError, match="lock 'first' was not free after 0.2 s"):
                with plan.state.lock("first", timeout=0.2): pass
            plan.state["is waiting"] = True
            with plan.state.lock("first", timeout=20):
                pass
        # The dead worker's request for this lock was dropped.
        with plan.state.lock("second", timeout=5):
            pass
    """,
        name="test_heir.py",
    )
    result = cluster.two()
    assert outcomes(result) == {"passed": 1, "failed": 1}
    once(result, "db")


def test_crash_during_collection_does_not_stop_the_plan(cluster: Cluster) -> None:
    """A worker that dies during collection is replaced, and the plan runs once."""
    cluster.steps(STEPS)
    cluster.tests(
        """
    import pathlib
    if os.environ["PYTEST_XDIST_WORKER"] == "gw0":
        os._exit(7)

    @pytest.mark.parametrize("number", range(4))
    def test_it(db, number): assert db == "db"
    """
    )
    result = cluster.two()
    assert outcomes(result) == {"passed": 4}
    assert cluster.called("db") == 1
    assert "replacing crashed worker gw0" in result.stdout.str()
    once(result, "db")


def test_worker_killed_while_the_plan_runs(cluster: Cluster) -> None:
    """The tests run although both workers are killed while the plan is being provisioned."""
    cluster.steps(
        """
        import psutil

        @pytest.mark.plan_step
        def db(ctx):
            note("db")
            children = psutil.Process().children()
            # The reaper is in another session.
            workers = [child for child in children if os.getsid(child.pid) == os.getsid(0)]
            note("killed", len(workers))
            for process in workers: process.kill()
            ended = lambda: all(one.status() == psutil.STATUS_ZOMBIE for one in workers)
            ctx.wait_until(ended, every=0.01)
            yield "db"
            note("cleaned")
        """
    )
    cluster.tests("""
    @pytest.mark.parametrize("number", range(4))
    def test_it(db, number): assert db == "db"
    """)
    result = cluster.two()
    assert outcomes(result)["passed"] == 4
    assert cluster.calls == ["db", "killed 2", "cleaned"]
    once(result, "db")


class TestDeathWhileThePlanRuns:
    """A worker dies after collection, which xdist notices only after the plan is provisioned."""

    STEPS = """
    import psutil

    @pytest.mark.plan_step
    def db(ctx):
        ctx.wait_until(lambda: pathlib.Path("others").exists())
        pids = [int(path.name) for path in pathlib.Path("collected").iterdir()]
        victim = psutil.Process(pids[0])
        victim.kill()
        worker = lambda: victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE
        ctx.wait_until(lambda: not worker())
        ctx.sleep(0.3)  # until the controller has noticed the closed line
        note("db")
        yield "db"
        note("cleaned")

    def pytest_collection_finish():
        if "PYTEST_XDIST_WORKER" in os.environ:
            pathlib.Path("collected").mkdir(exist_ok=True)
            pathlib.Path("collected", str(os.getpid())).touch()
            pathlib.Path("others").touch()
    """
    TESTS = """
    @pytest.mark.parametrize("number", range(4))
    def test_it(db, number): assert db == "db"
    """

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("dist", ["load", "loadscope", "worksteal", "each"])
    def test_is_replaced_by_a_clone(self, cluster: Cluster, dist: str, workers: int) -> None:
        """A replacement runs the dead worker's tests: each runs as often as usual, and passes."""
        cluster.steps("import pathlib", self.STEPS)
        cluster.tests(self.TESTS)
        result = cluster.apart("-n", str(workers), "--dist", dist)
        assert outcomes(result) == {"passed": 4 * workers if dist == "each" else 4}
        assert "replacing crashed worker gw" in result.stdout.str()
        assert cluster.calls == ["db", "cleaned"]
        assert result.ret == 0

    def test_is_an_error_where_no_clone_is_allowed(self, cluster: Cluster) -> None:
        """If no replacement is allowed, the run reports it and exits with status 1."""
        cluster.steps("import pathlib", self.STEPS)
        cluster.tests(self.TESTS)
        result = cluster.two("--max-worker-restart", "0")
        assert outcomes(result) == {}
        assert re.search(
            r"worker 'gw[01]' died before the tests began: no test was run", result.stdout.str()
        )
        assert cluster.calls == ["db", "cleaned"]
        assert result.ret == 1


def test_crashed_test_is_run_again_in_the_same_environment(cluster: Cluster) -> None:
    """With pytest-rerunfailures a replacement reruns the test that killed its worker, no step."""
    cluster.steps(STEPS)
    cluster.tests(
        HEAD,
        """
    def test_it(plan, db):
        if plan.state.compare_and_swap("log", [], ["crash"]):
            os._exit(7)
        assert plan.state["log"] == ["crash"]
    """,
    )
    result = cluster.two("-p", "rerunfailures", "--reruns", "2")
    assert outcomes(result) == {"passed": 1, "rerun": 1}
    assert cluster.calls == ["db", "cleaned crash"]
    once(result, "db")


def test_survivors_finish_when_workers_are_not_replaced(cluster: Cluster) -> None:
    """With `--max-worker-restart=0` the other worker continues with the same State."""
    cluster.steps(STEPS)
    cluster.tests(
        HEAD,
        """
    @pytest.mark.parametrize("number", range(6))
    def test_it(plan, db, number):
        if plan.state.compare_and_swap("log", [], ["crash"]):
            os._exit(7)
        assert plan.state["log"] == ["crash"]
    """,
    )
    result = cluster.two("--max-worker-restart", "0")
    counts = outcomes(result)
    assert counts["failed"] == 1
    assert "worker restarting disabled" in result.stdout.str()
    assert cluster.calls == ["db", "cleaned crash"]
    once(result, "db")


@pytest.mark.parametrize("option", ["-x", "--maxfail=2"])
def test_stop_after_failures_still_cleans_up(cluster: Cluster, option: str) -> None:
    """`-x` and `--maxfail` end the run early, and cleanup runs once."""
    cluster.steps(STEPS)
    cluster.tests("""
    @pytest.mark.parametrize("number", range(50))
    def test_it(db, number): assert number > 40
    """)
    result = cluster.two(option)
    assert 1 <= outcomes(result)["failed"] < 10  # other tests were already running
    assert result.ret == 2
    assert cluster.calls == ["db", "cleaned"]
    once(result, "db")


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "pytest.exit('enough')"])
def test_interrupt_in_a_test_ends_the_run(cluster: Cluster, raised: str) -> None:
    """An interrupt in a test ends the run; cleanup runs once even if xdist replaces the worker."""
    cluster.steps(STEPS)
    cluster.tests(f"""
    @pytest.mark.parametrize("number", range(4))
    def test_it(db, number):
        if number == 1: raise {raised}
    """)
    result = cluster.two()
    assert result.ret == 2
    assert cluster.calls == ["db", "cleaned"]
    once(result, "db")


class TestInterrupt:
    """Ctrl-C while tests run."""

    WAITING = """
    @pytest.mark.plan("db")
    def test_it(plan):
        note("in test", os.environ["PYTEST_XDIST_WORKER"])
        plan.state.wait_for("never")
    """

    @pytest.mark.parametrize("group", [True, False], ids=["group", "controller alone"])
    def test_slow_cleanup_completes(self, cluster: Cluster, group: bool) -> None:
        """A cleanup of several seconds runs to its end, after the workers have exited."""
        cluster.steps("""
        import psutil, time

        @pytest.mark.plan_step
        def db():
            yield "db"
            children = psutil.Process().children()
            workers = [child for child in children if os.getsid(child.pid) == os.getsid(0)]
            note("begun beside", len(workers), "workers")
            time.sleep(4)
            note("ended")
        """)
        for name in ("one", "other"):
            cluster.tests(self.WAITING, name=f"test_{name}.py")
        with cluster.start("-n", "2", "--dist", "loadfile") as live:
            wait_until(lambda: len(cluster.notes("in")) == 2)
            live.interrupt(group=group)
            result = live.end()
        assert result.ret == 2
        assert cluster.calls[2:] == ["begun beside 0 workers", "ended"]
        once(result, "db")

    def test_while_provisioning(self, cluster: Cluster) -> None:
        """Ctrl-C during a step stops it and cleans up, and no test runs."""
        cluster.steps("""
        @pytest.mark.plan_step
        def net():
            yield
            note("net cleaned")

        @pytest.mark.plan_step
        def db(net, ctx):
            ctx.defer(note, "db undone")
            note("in db")
            ctx.sleep(60)
            note("db went on")
        """)
        cluster.tests("def test_it(db): note('ran')")
        with cluster.start("-n", "2") as live:
            wait_until(lambda: cluster.notes("in"))
            live.interrupt(group=True)
            result = live.end()
        assert result.ret == 2
        assert cluster.calls == ["in db", "db undone", "net cleaned"]


def test_killed_controller_wakes_waiting_workers(cluster: Cluster) -> None:
    """Tests that wait for a key or a lock, or ask later, learn that the controller has ended."""
    waiting = """
    import pytest_plan

    @pytest.mark.plan("db")
    def test_it(plan):
        note("waiting", {name!r})
        try:
            {code}
        except pytest_plan.StateError as error:
            note("woken", error)
        try:
            plan.state["x"] = 1
        except pytest_plan.StateError as error:
            note("refused", error)
    """
    codes = {"key": "plan.state.wait_for('never')", "lock": "with plan.state.lock('taken'): pass"}
    for name, code in codes.items():
        cluster.tests(waiting.format(name=name, code=code), name=f"test_{name}.py")
    cluster.steps(
        STEPS,
        """
    @pytest.mark.plan_step
    def holds_lock(db, state):
        with state.lock("taken"):
            yield
            note("never reached: the controller was killed")

    def pytest_collection_modifyitems(items):
        for item in items: item.add_marker(pytest.mark.plan("holds_lock"))
    """,
    )
    with cluster.start("-n", "2", "--dist", "loadfile", *NO_REAPER) as live:
        wait_until(lambda: len(cluster.notes("waiting")) == 2)
        live.kill()
        result = live.end(leaves_folder=True)
    forget_folders()
    assert result.ret == -signal.SIGKILL
    said = "the controller of this run has ended: its State and its steps are no longer available"
    assert cluster.notes("never") == []
    assert cluster.notes("woken") == [said] * 2
    assert cluster.notes("refused") == [said] * 2


def test_error_while_answering_does_not_close_the_line(cluster: Cluster) -> None:
    """A request that the controller cannot answer gets an error, and the next request works."""
    cluster.steps(STEPS)
    cluster.tests("""
    from pytest_plan import StateError
    from pytest_plan.plugin.session import lookup

    @pytest.mark.plan("db")
    def test_it(plan, request):
        client = lookup.of(request.config).view._client
        with pytest.raises(StateError, match="the controller failed at 'no such thing'"):
            client.ask("no such thing")
        with pytest.raises(StateError, match="the controller failed at 'read'"):
            client.ask("read", 1, 2, 3)
        with pytest.raises(StateError, match="the controller failed at 'write'"):
            client.ask("write", [], b"", None)
        assert plan.state["log"] == []
    """)
    result = cluster.two()
    assert outcomes(result) == {"passed": 1}
    assert not re.search("RemoteError|Traceback", result.stdout.str() + result.stderr.str())
