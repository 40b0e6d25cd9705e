"""`.trace.json`: Chrome trace events, for Perfetto (ui.perfetto.dev) and chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_plan.report.account import Account, StepAccount

_STEPS, _TESTS = 1, 2  # process ids
_MICRO = 1e6

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Span:
    """Something that took time, and what took place inside it."""

    name: str
    kind: str
    started: float
    seconds: float
    said: Event
    inner: tuple[_Span, ...] = ()


def text(account: Account) -> str:
    """Return the run as trace events: steps and cleanups in lanes, tests by worker."""
    events = [*_step_events(account), *_test_events(account)]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, ensure_ascii=False) + "\n"


def _step_events(account: Account) -> Iterator[Event]:
    spans = [span for step in account.steps for span in _spans(step)]
    lanes = _lanes(spans)
    yield _name("process_name", _STEPS, 0, f"plan {account.environment}")
    for lane in sorted(set(lanes)):
        yield _name("thread_name", _STEPS, lane, f"steps, lane {lane}")
    for span, lane in zip(spans, lanes, strict=True):
        yield _complete(span, _STEPS, lane)
        for inner in span.inner:
            yield _complete(inner, _STEPS, lane)


def _spans(step: StepAccount) -> Iterator[_Span]:
    if step.started is not None:
        attempts = [
            _Span(
                f"attempt {one.number}", "attempt", one.started, one.seconds, {"error": one.error}
            )
            for one in step.attempts
        ]
        inner = tuple(attempts) if step.attempts_allowed > 1 else ()
        yield _Span(step.name, "step", step.started, step.seconds, _said(step), inner)
    cleanup = step.cleanup
    if cleanup.started is not None:
        said = {"outcome": cleanup.outcome.value, "error": cleanup.error}
        yield _Span(f"cleanup {step.name}", "cleanup", cleanup.started, cleanup.seconds, said)


def _said(step: StepAccount) -> Event:
    return {
        "outcome": step.outcome.value,
        "reason": step.reason,
        "needs": list(step.needs),
        "after": list(step.after),
        "critical": step.is_critical,
    }


def _test_events(account: Account) -> Iterator[Event]:
    workers = {name: tid for tid, name in enumerate(_workers(account), 1)}
    if not workers:
        return
    yield _name("process_name", _TESTS, 0, "tests")
    for worker, tid in workers.items():
        yield _name("thread_name", _TESTS, tid, worker)
    for test in account.tests:
        said = {"outcome": test.outcome}
        span = _Span(test.node_id, "test", test.started, test.seconds, said)
        yield _complete(span, _TESTS, workers[test.worker])


def _workers(account: Account) -> Iterable[str]:
    names = {test.worker for test in account.tests}
    return sorted(names, key=lambda name: (len(name), name))  # gw2 before gw10


def _lanes(spans: Sequence[_Span]) -> list[int]:
    """Return a lane for each span, from 1, so that no two of one lane overlap."""
    lanes = [0] * len(spans)
    ends: list[float] = []
    for index in sorted(range(len(spans)), key=lambda index: spans[index].started):
        span = spans[index]
        free = next((lane for lane, end in enumerate(ends) if end <= span.started), len(ends))
        ends[free : free + 1] = [span.started + span.seconds]
        lanes[index] = free + 1
    return lanes


def _name(kind: str, process: int, thread: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _complete(span: _Span, process: int, thread: int) -> Event:
    # The ends are rounded, not the durations: Perfetto drops what is longer than what it lies in.
    started = round(span.started * _MICRO)
    ended = round((span.started + span.seconds) * _MICRO)
    return {
        "ph": "X",
        "name": span.name,
        "cat": span.kind,
        "pid": process,
        "tid": thread,
        "ts": started,
        "dur": ended - started,
        "args": span.said,
    }
