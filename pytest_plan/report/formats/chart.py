"""The geometry of the timeline: what is drawn where on one axis, from 0 to 1000."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.report.account import (
    BAD_TEST_OUTCOMES,
    TEST_OUTCOMES,
    Account,
    AttemptAccount,
    StepAccount,
    TestAccount,
)

WIDTH = 1000
MOST_ATTEMPTS = 50  # that are drawn and listed, the last ones
_MOST_TESTS = 400  # of a worker; more are thinned
_MOST_BARS = 800  # about so many are left of them
_FEWEST_SECONDS = 0.001
_WAITS = ("queue", "wait", "pause")  # drawn only where they can be seen
_VISIBLE = 0.5
_TICKS = 6
_NICE = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of a row: its kind is its class in the style sheet."""

    kind: str
    x: float
    width: float
    title: str = ""


@dataclass(frozen=True, slots=True)
class Lane:
    """The tests of one worker.

    Attributes:
        worker: its name.
        bars: its tests; several short ones in one bar when there are many.
        count: how many tests it ran.
        said: what they came to, in words.
        is_thinned: whether bars stand for more than one test.
    """

    worker: str
    bars: tuple[Bar, ...]
    count: int
    said: str
    is_thinned: bool


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the run to look at, in seconds."""

    name: str
    began: float
    ended: float


class Axis:
    """The time of a run, as a line from 0 to `WIDTH`."""

    def __init__(self, account: Account) -> None:
        ends = [test.started + test.seconds for test in account.tests]
        self.seconds = max(account.seconds, *ends, _FEWEST_SECONDS) if ends else account.seconds
        self.seconds = max(self.seconds, _FEWEST_SECONDS)

    def x(self, seconds: float) -> float:
        """Return where a time lies, or how long a duration is."""
        return round(seconds / self.seconds * WIDTH, 2)

    def bar(self, kind: str, began: float, ended: float, title: str = "") -> Bar:
        """Return the bar between two times."""
        return Bar(kind, self.x(began), self.x(max(0.0, ended - began)), title)

    def ticks(self) -> list[tuple[float, str]]:
        """Return where the times of the ruler stand, and what they say."""
        rough = self.seconds / _TICKS
        apart = next((nice for nice in _nice(rough) if nice >= rough), rough)
        count = int(self.seconds / apart) + 1
        return [(self.x(number * apart), _time(number * apart)) for number in range(count)]


def ready_at(step: StepAccount, steps: Mapping[str, StepAccount]) -> float:
    """Return when all that a step waits for had ended."""
    before = [steps[name] for name in (*step.needs, *step.after) if name in steps]
    return max(((one.started or 0.0) + one.seconds for one in before), default=0.0)


def step_bars(step: StepAccount, ready: float, axis: Axis) -> tuple[Bar, ...]:
    """Return a step: waiting for a job, attempts and the waits between, pause, cleanup."""
    bars = _step_bars(step, ready, axis)
    return tuple(bar for bar in bars if bar.kind not in _WAITS or bar.width >= _VISIBLE)


def _step_bars(step: StepAccount, ready: float, axis: Axis) -> Iterator[Bar]:
    if step.started is not None:
        ended = step.started + step.seconds
        yield axis.bar("queue", min(ready, step.started), step.started)
        attempts = step.attempts[-MOST_ATTEMPTS:]
        for before, attempt in zip((None, *attempts), attempts, strict=False):
            if before is not None:
                yield axis.bar("wait", before.started + before.seconds, attempt.started)
            yield axis.bar(_kind(step, attempt), attempt.started, attempt.started + attempt.seconds)
        last = attempts[-1] if attempts else None
        yield axis.bar("pause", last.started + last.seconds if last else step.started, ended)
        if step.is_critical:
            yield axis.bar("path", step.started, ended)
    cleanup = step.cleanup
    if cleanup.started is not None:
        kind = "bad" if cleanup.is_bad else "clean"
        yield axis.bar(kind, cleanup.started, cleanup.started + cleanup.seconds)


def _kind(step: StepAccount, attempt: AttemptAccount) -> str:
    if attempt.error is None:
        return "good"
    is_last = attempt is step.attempts[-1]
    return "bad" if step.outcome.is_failure or not is_last else "odd"


def lanes(account: Account, axis: Axis) -> list[Lane]:
    """Return a lane for each worker, in the order of their numbers."""
    workers: dict[str, list[TestAccount]] = {}
    for test in account.tests:
        workers.setdefault(test.worker, []).append(test)
    names = sorted(workers, key=lambda name: (len(name), name))
    return [_lane(name, workers[name], axis) for name in names]


def _lane(worker: str, tests: Sequence[TestAccount], axis: Axis) -> Lane:
    is_thinned = len(tests) > _MOST_TESTS
    bars = _thinned(tests, axis) if is_thinned else (_test_bar(test, axis) for test in tests)
    # What went wrong is drawn last: nothing hides it.
    ordered = sorted(bars, key=lambda bar: ("good", "odd", "bad").index(bar.kind))
    found = [test.outcome for test in tests]
    counts = [f"{found.count(name)} {name}" for name in TEST_OUTCOMES if name in found]
    return Lane(worker, tuple(ordered), len(tests), ", ".join(counts), is_thinned)


def _test_bar(test: TestAccount, axis: Axis) -> Bar:
    title = f"{test.node_id}: {test.outcome}, {format_duration(test.seconds)}"
    return axis.bar(_test_kind(test), test.started, test.started + test.seconds, title)


def _test_kind(test: TestAccount) -> str:
    if test.outcome in BAD_TEST_OUTCOMES and test.outcome != "blocked":
        return "bad"
    return "good" if test.outcome == "passed" else "odd"


def _thinned(tests: Sequence[TestAccount], axis: Axis) -> Iterator[Bar]:
    """Return one bar for neighbours of a kind that could not be told apart."""
    span = max(test.started + test.seconds for test in tests) - tests[0].started
    least = span / _MOST_BARS
    group: list[TestAccount] = []
    for test in tests:
        is_new = group and (
            _test_kind(test) != _test_kind(group[0])
            or test.started + test.seconds - group[0].started > least
        )
        if is_new:
            yield _group_bar(group, axis)
            group = []
        group.append(test)
    yield _group_bar(group, axis)


def _group_bar(tests: Sequence[TestAccount], axis: Axis) -> Bar:
    if len(tests) == 1:
        return _test_bar(tests[0], axis)
    ended = max(test.started + test.seconds for test in tests)
    return axis.bar(_test_kind(tests[0]), tests[0].started, ended, f"{len(tests)} tests")


def spans(account: Account, axis: Axis) -> list[Span]:
    """Return the parts of the run that can be looked at: all of it, then its phases."""
    found = [Span("whole run", 0.0, axis.seconds)]
    steps = [step for step in account.steps if step.started is not None]
    if steps:
        ended = max((step.started or 0.0) + step.seconds for step in steps)
        found.append(Span("provision", 0.0, ended))
    if account.tests:
        ended = max(test.started + test.seconds for test in account.tests)
        found.append(Span("tests", account.tests[0].started, ended))
    if account.cleanup_began is not None:
        found.append(Span("cleanup", account.cleanup_began, axis.seconds))
    return [span for span in found if span.ended - span.began >= _FEWEST_SECONDS]


def _nice(rough: float) -> Iterator[float]:
    for digits in range(-4, 0):
        yield from (nice * 10.0**digits for nice in (1, 2, 5))
    yield from _NICE
    yield from (3600.0 * hours for hours in (2, 4, 6, 12, 24))


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.4g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m" if rest == 0 else f"{minutes}m {rest:02}s"
