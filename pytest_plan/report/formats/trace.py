"""Writes `.trace.json` reports: trace events for ui.perfetto.dev and chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_plan.report.account import Account, StepAccount

_STEPS, _TESTS = 1, 2  # process ids in the trace
_MICRO = 1e6

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Span:
    """A named span of time, and the spans inside it."""

    name: str
    kind: str
    started: float
    seconds: float
    args: dict[str, Any]
    inner: tuple[_Span, ...] = ()


def text(account: Account) -> str:
    """Return the run as trace events, with steps and cleanups in lanes and tests by worker."""
    events = [*_step_events(account), *_test_events(account)]
    data = {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"verdict": account.verdict.line},
    }
    return json.dumps(data, ensure_ascii=False) + "\n"


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
    for step in account.steps:
        if step.lost is not None:
            yield _loss(step, lane=1)


def _spans(step: StepAccount) -> Iterator[_Span]:
    if step.started is not None:
        attempts = tuple(
            _Span(
                f"attempt {one.number}", "attempt", one.started, one.seconds, {"error": one.error}
            )
            for one in step.attempts
        )
        inner = attempts if step.attempts_allowed > 1 else ()
        yield _Span(step.name, "step", step.started, step.seconds, _step_args(step), inner)
    cleanup = step.cleanup
    if cleanup.started is not None:
        args = {"outcome": cleanup.outcome.value, "error": cleanup.error}
        yield _Span(f"cleanup {step.name}", "cleanup", cleanup.started, cleanup.seconds, args)


def _step_args(step: StepAccount) -> dict[str, Any]:
    return {
        "outcome": step.outcome.value,
        "reason": step.reason,
        "needs": list(step.needs),
        "after": list(step.after),
        "critical": step.is_critical,
    }


def _loss(step: StepAccount, lane: int) -> Event:
    """Return a mark in the lane of a step at the time when it was lost."""
    assert step.lost is not None
    args = {"program": step.lost.program, "status": step.lost.status, "detail": step.lost.detail}
    return {
        "ph": "i",
        "s": "p",
        "name": f"{step.name} lost",
        "cat": "lost",
        "pid": _STEPS,
        "tid": lane,
        "ts": round(step.lost.at * _MICRO),
        "args": args,
    }


def _test_events(account: Account) -> Iterator[Event]:
    threads = {worker: number for number, worker in enumerate(account.tests_by_worker(), 1)}
    if threads:
        yield _name("process_name", _TESTS, 0, "tests")
    for worker, thread in threads.items():
        yield _name("thread_name", _TESTS, thread, worker)
    for test in account.tests:
        args = {"outcome": test.outcome}
        span = _Span(test.node_id, "test", test.started, test.seconds, args)
        yield _complete(span, _TESTS, threads[test.worker])


def _lanes(spans: Sequence[_Span]) -> list[int]:
    """Return the lane of each span, counted from 1; no two spans in a lane overlap."""
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
    # The end is rounded, not the duration: Perfetto drops a span that ends after the span around
    # it.
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
        "args": span.args,
    }
