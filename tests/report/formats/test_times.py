"""Where the time of a run went: the numbers of the section in the HTML report."""

from __future__ import annotations

import pytest

from pytest_plan.report.account import AttemptAccount
from pytest_plan.report.formats import times
from tests.report.support.accounts import account, blocked, ran, step


def test_slack_and_waits() -> None:
    """Slack is the time until a step would delay another, or the end of provisioning.

    Waits are those before a step begins, between attempts, and in its pause.
    """
    tries = (AttemptAccount(1, "exec", 4.0, 1.0, "no"), AttemptAccount(2, "exec", 6.0, 2.0, None))
    run = account(
        step("net", seconds=1.0, is_critical=True),
        step("db", needs=("net",), started=1.0, seconds=8.0, is_critical=True),
        step("cache", needs=("net",), started=1.0, seconds=2.0),
        step("queue", needs=("cache",), started=4.0, seconds=4.5, attempts=tries),
        blocked("web", needs=("cache",)),
        tests=(ran("fast", seconds=0.1), ran("slow"), ran("none", "blocked", seconds=9.0)),
        critical_path=("net", "db"),
    )
    found = times.of(run)
    assert {name: one.slack for name, one in found.spent.items()} == {
        "net": 0.0, "db": 0.0, "cache": 1.5, "queue": 0.5,
    }  # fmt: skip
    assert [one.step.name for one in found.path] == ["net", "db"]
    assert [one.step.name for one in found.off_path] == ["queue", "cache"]
    assert found.spent["queue"].notes == [
        ("waiting to start", 1.0),
        ("failed attempts", 1.0),
        ("waiting for a retry", 1.0),
        ("pause", 0.5),
    ]
    assert [test.node_id for test in found.slowest] == ["slow", "fast"]
    assert [(phase.name, phase.began, phase.seconds) for phase in found.phases] == [
        ("Provisioning", 0.0, 9.0), ("Tests", 2.0, 9.0), ("Cleanup", 8.0, 2.0),
    ]  # fmt: skip


def test_share_of_busy_workers() -> None:
    """Two workers, one of which ran a test for half of the time, were busy for three quarters."""
    tests = (ran("a", worker="gw0", seconds=2.0), ran("b", worker="gw1", seconds=1.0))
    assert times.of(account(tests=tests)).busy == pytest.approx(0.75)
    assert times.of(account()).busy == 0.0
