"""Session fixtures that use a step are torn down before the step's cleanup, however a run ends."""

from __future__ import annotations

import os
import signal

import pytest

from tests.xdist.cluster import Cluster, outcomes, wait_until

STEPS = """
@pytest.mark.plan_step
def db():
    yield "db"
    note("undo")

@pytest.fixture(scope="session")
def connection(db):
    note("connect")
    yield db
    note("disconnect")
"""
TESTS = """
import time

@pytest.mark.parametrize("number", range(6))
def test_it(connection, number):
    {code}
"""
SOLO_AND_TWO = pytest.mark.parametrize("workers", ["0", "2"])
SLEEPS = "note('sleeps'); time.sleep(60)"


def in_order(cluster: Cluster) -> None:
    """Check that each connection was closed, and that the step was cleaned up after that."""
    calls = [call for call in cluster.calls if call != "sleeps"]
    assert calls.count("disconnect") == calls.count("connect") > 0
    assert calls.index("undo") == len(calls) - 1


@SOLO_AND_TWO
@pytest.mark.parametrize(
    ("code", "args", "status"),
    [
        ("pass", [], pytest.ExitCode.OK),
        ("assert False", [], pytest.ExitCode.TESTS_FAILED),
        ("assert False", ["-x"], None),
        ("pytest.exit('enough')", [], None),
        ("raise KeyboardInterrupt", [], None),
        ("time.sleep(60)", ["--plan-limit", "4s"], pytest.ExitCode.TESTS_FAILED),
    ],
    ids=["passed", "failed", "first failure", "exit", "interrupt", "limit"],
)
def test_end_of_the_tests(
    cluster: Cluster, code: str, args: list[str], status: int | None, workers: str
) -> None:
    """The fixture still has its step, also when the tests end early."""
    cluster.steps(STEPS)
    cluster.tests(TESTS.format(code=code))
    result = cluster.apart("-n", workers, *args)
    in_order(cluster)
    assert result.ret == status or (status is None and result.ret in (1, 2))


@SOLO_AND_TWO
@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 2), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal(cluster: Cluster, number: int, status: int, group: bool, workers: str) -> None:
    """After a signal the fixture still has its step, and pytest exits with the signal's status."""
    cluster.steps(STEPS)
    cluster.tests(TESTS.format(code=SLEEPS))
    with cluster.start("-n", workers) as live:
        wait_until(lambda: len(cluster.notes("sleeps")) == max(1, int(workers)))
        (os.killpg if group else os.kill)(live.pid, number)
        result = live.end()
    in_order(cluster)
    assert result.ret == status


def test_error_in_the_fixture(cluster: Cluster) -> None:
    """An error in the late teardown is reported as an error, and cleanup follows."""
    cluster.steps(STEPS.replace('note("disconnect")', 'raise OSError("no connection")'))
    cluster.tests(TESTS.format(code="pytest.exit('enough')"))
    result = cluster.apart()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert cluster.calls == ["connect", "undo"]
    assert outcomes(result) == {"errors": 1}
    result.stdout.fnmatch_lines(["*ERROR at teardown of *", "*no connection*", "E*OSError: no*"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
