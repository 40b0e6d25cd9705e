"""Chrome trace events: complete events that nest, in named processes and threads."""

from __future__ import annotations

import json
from typing import Any

from pytest_plan.report import trace
from pytest_plan.report.account import AttemptAccount
from tests.report.accounts import account, blocked, cleanup, failed, ran, step

ATTEMPTS = (AttemptAccount(1, "exec", 0.0, 0.4, "no"), AttemptAccount(2, "exec", 0.6, 0.4, None))


def events() -> list[dict[str, Any]]:
    """Return the events of a run with two steps at once, a retry, cleanups and two workers."""
    text = trace.text(
        account(
            step("net", attempts=ATTEMPTS, attempts_allowed=2, cleanup=cleanup()),
            failed("db", started=0.5, seconds=1.0),
            step("web", started=1.0, needs=("net",)),
            blocked("child"),
            tests=(ran("a", worker="gw10"), ran("b", "failed", worker="gw2")),
        )
    )
    found: list[dict[str, Any]] = json.loads(text)["traceEvents"]
    return found


def test_everything_is_there() -> None:
    """Steps, attempts, cleanups and tests, in microseconds; what did not run is not."""
    spans = [(e["cat"], e["name"], e["ts"], e["dur"]) for e in events() if e["ph"] == "X"]
    assert spans == [
        ("step", "net", 0, 1_000_000),
        ("attempt", "attempt 1", 0, 400_000),
        ("attempt", "attempt 2", 600_000, 400_000),
        ("cleanup", "cleanup net", 8_000_000, 1_000_000),
        ("step", "db", 500_000, 1_000_000),
        ("step", "web", 1_000_000, 1_000_000),
        ("test", "a", 2_000_000, 500_000),
        ("test", "b", 2_000_000, 500_000),
    ]


def test_processes_and_threads_are_named() -> None:
    """Each that has an event has a name; workers are in the order of their numbers."""
    found = events()
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in found if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in found if e["ph"] == "X"} == set(names)
    assert list(names.values()) == ["steps, lane 1", "steps, lane 2", "gw2", "gw10"]
    assert [e["args"]["name"] for e in found if e["name"] == "process_name"] == [
        "plan run-1f0c9a3e",
        "tests",
    ]


def test_no_two_steps_of_a_thread_overlap() -> None:
    """Viewers draw complete events of one thread rightly only when they nest."""
    outer = [e for e in events() if e["ph"] == "X" and e["cat"] in ("step", "cleanup")]
    for one in outer:
        for other in outer:
            if one is not other and one["tid"] == other["tid"]:
                apart = one["ts"] + one["dur"] <= other["ts"]
                assert apart or other["ts"] + other["dur"] <= one["ts"]
