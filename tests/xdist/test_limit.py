"""`--plan-limit` with workers."""

from __future__ import annotations

import psutil
import pytest

from tests.xdist.cluster import Cluster, forget_folders, outcomes, wait_until


def test_the_limit_applies_without_any_step(cluster: Cluster) -> None:
    """The limit fails the test that hangs in a worker, and the exit status is 1."""
    cluster.tests("""
    import time

    def test_slow():
        while True:
            time.sleep(0.01)
    """)
    result = cluster.two("--plan-limit=1s")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(result) == {"failed": 1}
    result.stdout.fnmatch_lines(["E *Failed: the plan's limit of 1.00s has passed"])


def test_no_test_begins_after_a_limit_that_ended_provisioning(cluster: Cluster) -> None:
    """Tests that need no step do not begin either, in whichever worker they are."""
    cluster.steps("""
    @pytest.mark.plan_step
    def slow(ctx):
        ctx.sleep("60s")
    """)
    cluster.tests("""
    def test_needs_it(slow):
        note("test")

    @pytest.mark.parametrize("number", range(4))
    def test_other(number):
        note("test")
    """)
    result = cluster.two("--plan-limit=1s")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert cluster.calls == []


def test_nothing_begins_after_a_limit_that_passed_during_collection(cluster: Cluster) -> None:
    """With an eager step, the limit can pass before the other steps and the tests begin."""
    cluster.steps("""
    @pytest.mark.plan_step(eager=True)
    def first():
        yield 1
        note("cleaned")

    @pytest.mark.plan_step(needs=())
    def second():
        note("step")
    """)
    cluster.tests("""
    import time

    time.sleep(2.5)

    def test_needs_none():
        note("test")

    def test_needs_it(second):
        note("test")
    """)
    result = cluster.two("--plan-limit=1s")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert cluster.calls == ["cleaned"]


def test_a_test_that_stops_the_clock_does_not_stop_the_limit(cluster: Cluster) -> None:
    """A test may replace `time.monotonic`, as freezegun does in every loaded module."""
    cluster.tests("""
    import sys, time

    def test_slow(monkeypatch):
        real = time.monotonic
        now = real()
        monkeypatch.setattr(time, "monotonic", lambda: now)
        until = time.perf_counter() + 30
        while time.perf_counter() < until:
            time.sleep(0.01)
    """)
    result = cluster.two("--plan-limit=1s")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["E *Failed: the plan's limit of 1.00s has passed"])


HOLDS = """
import itertools

def test_counts(shop):
    note("pid", os.getpid())
    sum(itertools.repeat(1, 10**11))

def test_other(shop): pass
"""
SHOP = """
@pytest.mark.plan_step
def shop():
    yield
    note("cleaned")
"""


def test_a_worker_that_holds_the_interpreter_lock_is_killed(cluster: Cluster) -> None:
    """The test is named, the plan is cleaned up, and pytest writes its summary and JUnit file."""
    cluster.steps(SHOP)
    cluster.tests(HOLDS)
    result = cluster.two("--plan-limit=2s", "--junitxml=report.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert cluster.called("cleaned") == 1
    said = "did not end after the plan's limit had passed; it was killed"
    result.stdout.fnmatch_lines(
        [f"plan: worker 'gw?' {said}", "worker 'gw?' crashed *test_counts*"]
    )
    assert said in (cluster.path / "report.xml").read_text()


def test_a_worker_does_not_outlive_a_controller_that_is_killed(cluster: Cluster) -> None:
    """The reaper kills it, although it holds its interpreter's lock, and then cleans up."""
    cluster.steps("""
    def undo():
        note("cleaned")

    @pytest.mark.plan_step
    def shop(ctx):
        ctx.defer(undo)
    """)
    cluster.tests(HOLDS)
    with cluster.start("-n", "2") as live:
        (pid,) = wait_until(lambda: cluster.notes("pid"))
        live.kill()
        wait_until(lambda: not psutil.pid_exists(int(pid)))
        wait_until(lambda: cluster.called("cleaned"))
        live.end(leaves_folder=True)
    forget_folders()
