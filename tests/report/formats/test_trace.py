"""Chrome trace events: complete events that nest, in named processes and threads."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_plan.report.account import AttemptAccount
from pytest_plan.report.formats import trace
from tests.report.support.accounts import account, blocked, cleanup, failed, ran, step

ATTEMPTS = (AttemptAccount(1, "exec", 0.0, 0.4, "no"), AttemptAccount(2, "exec", 0.6, 0.4, None))


def events() -> list[dict[str, Any]]:
    """Return the events of a run with parallel steps, a retry, cleanups and two workers."""
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
    """Steps, attempts, cleanups and tests are events, with times in microseconds."""
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
    """Every process and thread with events is named; workers are sorted by number."""
    found = events()
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in found if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in found if e["ph"] == "X"} == set(names)
    assert list(names.values()) == ["steps, lane 1", "steps, lane 2", "gw2", "gw10"]
    assert [e["args"]["name"] for e in found if e["name"] == "process_name"] == [
        "plan run-1f0c9a3e",
        "tests",
    ]


def check_as_perfetto(found: list[dict[str, Any]]) -> None:
    """Check the requirements of Perfetto's importer, which drops events that do not nest."""
    for event in found:
        assert event["ph"] in ("M", "X")
        numbers = [event[key] for key in ("pid", "tid", "ts", "dur") if key in event]
        assert len(numbers) == (4 if event["ph"] == "X" else 2)
        assert {type(number) for number in numbers} == {int}
        assert min(numbers) >= 0
        assert event["name"]
    threads = {(event["pid"], event["tid"]) for event in found if event["ph"] == "X"}
    for thread in threads:
        mine = [e for e in found if e["ph"] == "X" and (e["pid"], e["tid"]) == thread]
        check_nesting(sorted((e["ts"], -e["dur"]) for e in mine))


def check_nesting(spans: list[tuple[int, int]]) -> None:
    """Check that any two spans are either nested or disjoint."""
    ends: list[int] = []
    for started, negative in spans:
        while ends and ends[-1] <= started:
            ends.pop()
        assert not ends or started - negative <= ends[-1], (started, -negative, ends)
        ends.append(started - negative)


def test_perfetto_can_import_it() -> None:
    """Times and ids are integers, and the spans of a thread nest."""
    check_as_perfetto(events())


SECONDS = st.floats(0.0, 5.0)


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS), min_size=1, max_size=8))
def test_spans_nest_whatever_the_times(times: list[tuple[float, float, float]]) -> None:
    """Rounding never makes the last attempt end after its step, or makes steps overlap."""
    steps, now = [], 0.0
    for number, (first, wait, second) in enumerate(times):
        begin = now + first + wait
        now = begin + second
        attempts = (
            AttemptAccount(1, "exec", now - second - wait - first, first, "no"),
            AttemptAccount(2, "exec", begin, now - begin, None),
        )
        started = attempts[0].started
        steps.append(
            step(
                f"s{number}", started=started, seconds=now - started, attempts=attempts,
                attempts_allowed=2, cleanup=cleanup(),
            )
        )  # fmt: skip
    check_as_perfetto(json.loads(trace.text(account(*steps)))["traceEvents"])
