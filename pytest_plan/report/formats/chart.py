"""Computes the geometry of the timeline: bars and ticks on an axis from 0 to `WIDTH`.

All bars of one kind in a row are one shape, so that a page with many bars has few elements. The
script of the page finds the bar under the pointer by its position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.report.account import Account, AttemptAccount, StepAccount, TestAccount
from pytest_plan.report.verdict import BAD_TEST_OUTCOMES, TEST_OUTCOMES

WIDTH = 1000
MOST_ATTEMPTS = 50  # only the last attempts of a step are drawn and listed
_MOST_TESTS = 400  # per worker; if there are more, they are grouped
_MOST_BARS = 800  # approximate number of bars after grouping
_FEWEST_SECONDS = 0.001
_WAITS = ("queue", "wait", "pause")  # kinds of bars that are left out if they are too narrow to see
_VISIBLE = 0.5
# The top and the height of the bars of each kind, in a row of height 10.
_PLACES = {
    "good": (2, 6),
    "odd": (2, 6),
    "bad": (2, 6),
    "clean": (2, 6),
    "wait": (4.6, 0.9),
    "pause": (4, 2),
    "queue": (4.8, 0.5),
    "path": (9, 1),
}
_TICKS = 6
_TICK_SECONDS = (
    *(digit * 10.0**power for power in range(-4, 0) for digit in (1, 2, 5)),
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600),
    *(3600 * hours for hours in (2, 4, 6, 12, 24)),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar in a row; its kind is its class in the style sheet, its title what it stands for."""

    kind: str
    x: float
    width: float
    title: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """All bars of a kind in a row; `path` is the `d` attribute of an SVG path."""

    kind: str
    path: str


def shapes(bars: Sequence[Bar]) -> list[Shape]:
    """Return the shapes of the bars of a row, in drawing order."""
    paths: dict[str, str] = {}
    for bar in bars:
        top, height = _PLACES[bar.kind]
        path = f"M{bar.x:g} {top}h{bar.width:g}v{height}h-{bar.width:g}z"
        paths[bar.kind] = paths.get(bar.kind, "") + path
    return [Shape(kind, path) for kind, path in paths.items()]


@dataclass(frozen=True, slots=True)
class Lane:
    """The tests of one worker.

    Attributes:
        worker: the name of the worker.
        bars: its tests in drawing order.
        count: the number of tests it ran.
        summary: the number of tests with each outcome, as text.
        is_grouped: whether a bar may stand for several tests.
        busy: for how long tests ran, in seconds.
    """

    worker: str
    bars: tuple[Bar, ...]
    count: int
    summary: str
    is_grouped: bool
    busy: float


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the run to zoom in on; its times are in seconds since the run began."""

    name: str
    began: float
    ended: float


class Axis:
    """The time axis of a run: maps seconds to the range from 0 to `WIDTH`."""

    def __init__(self, account: Account) -> None:
        ends = [test.started + test.seconds for test in account.tests]
        self.seconds = max(account.seconds, *ends, _FEWEST_SECONDS)

    def x(self, seconds: float) -> float:
        """Return the position of a time, or the width of a duration."""
        return round(seconds / self.seconds * WIDTH, 2)

    def bar(self, kind: str, began: float, ended: float, title: str = "") -> Bar:
        """Return the bar between two times; its title says how long it took, and when."""
        took = format_duration(max(0.0, ended - began))
        when = f"{format_duration(began)} to {format_duration(ended)}"
        text = f"{title}, {took} ({when})" if title else ""
        return Bar(kind, self.x(began), self.x(max(0.0, ended - began)), text)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the positions and labels of the ticks."""
        rough = self.seconds / _TICKS
        apart = next((size for size in _TICK_SECONDS if size >= rough), rough)
        count = int(self.seconds / apart) + 1
        return [(self.x(number * apart), _time(number * apart)) for number in range(count)]


def ready_at(step: StepAccount, steps: Mapping[str, StepAccount]) -> float:
    """Return when the last step that this one waits for ended, in seconds since the run began."""
    waited_for = [steps[name] for name in (*step.needs, *step.after) if name in steps]
    return max(((one.started or 0.0) + one.seconds for one in waited_for), default=0.0)


def step_bars(step: StepAccount, ready: float, axis: Axis) -> tuple[Bar, ...]:
    """Return the bars of a step: waits, attempts, pause and cleanup.

    Args:
        step: the step.
        ready: when it could have started; see `ready_at`.
        axis: the time axis.
    """
    bars = [*_provision_bars(step, ready, axis), *_cleanup_bars(step, axis)]
    return tuple(bar for bar in bars if bar.kind not in _WAITS or bar.width >= _VISIBLE)


def _provision_bars(step: StepAccount, ready: float, axis: Axis) -> Iterator[Bar]:
    if step.started is None:
        return
    yield axis.bar("queue", min(ready, step.started), step.started, "waited to start")
    attempts = step.attempts[-MOST_ATTEMPTS:]
    for attempt in attempts:
        title = _attempt_title(step, attempt)
        yield axis.bar(_attempt_kind(step, attempt), attempt.started, _ended(attempt), title)
    for before, attempt in pairwise(attempts):
        title = f"waited before attempt {attempt.number}"
        yield axis.bar("wait", _ended(before), attempt.started, title)
    ended = step.started + step.seconds
    yield axis.bar("pause", _ended(attempts[-1]) if attempts else step.started, ended, "pause")
    if step.is_critical:
        yield axis.bar("path", step.started, ended)


def _cleanup_bars(step: StepAccount, axis: Axis) -> Iterator[Bar]:
    cleanup = step.cleanup
    if cleanup.started is not None:
        kind = "bad" if cleanup.is_bad else "clean"
        title = f"cleanup {cleanup.outcome.value.replace('_', ' ')}"
        yield axis.bar(kind, cleanup.started, cleanup.started + cleanup.seconds, title)


def _ended(attempt: AttemptAccount) -> float:
    return attempt.started + attempt.seconds


def _attempt_kind(step: StepAccount, attempt: AttemptAccount) -> str:
    if attempt.error is None:
        return "good"
    is_last = attempt is step.attempts[-1]
    return "bad" if step.outcome.is_failure or not is_last else "odd"


def _attempt_title(step: StepAccount, attempt: AttemptAccount) -> str:
    of = f" of {step.attempts_allowed}" if step.attempts_allowed > 1 else ""
    return f"attempt {attempt.number}{of} {'failed' if attempt.error else 'succeeded'}"


def lanes(account: Account, axis: Axis) -> list[Lane]:
    """Return a lane for each worker; `gw2` comes before `gw10`."""
    return [_lane(worker, tests, axis) for worker, tests in account.tests_by_worker().items()]


def _lane(worker: str, tests: Sequence[TestAccount], axis: Axis) -> Lane:
    is_grouped = len(tests) > _MOST_TESTS
    bars = _grouped(tests, axis) if is_grouped else (_test_bar(test, axis) for test in tests)
    # Failures are drawn last, so that no other bar covers them.
    ordered = sorted(bars, key=lambda bar: ("good", "odd", "bad").index(bar.kind))
    found = Counter(test.outcome for test in tests)
    counts = [f"{found[name]} {name}" for name in TEST_OUTCOMES if found[name]]
    busy = sum(test.seconds for test in tests)
    return Lane(worker, tuple(ordered), len(tests), ", ".join(counts), is_grouped, busy)


def _test_bar(test: TestAccount, axis: Axis) -> Bar:
    return axis.bar(_test_kind(test), test.started, test.started + test.seconds)


def _test_kind(test: TestAccount) -> str:
    if test.outcome in BAD_TEST_OUTCOMES and test.outcome != "blocked":
        return "bad"
    return "good" if test.outcome == "passed" else "odd"


def _grouped(tests: Sequence[TestAccount], axis: Axis) -> Iterator[Bar]:
    """Yield the bars of the tests; adjacent tests that are too short to see share a bar.

    Only tests of the same kind share a bar.
    """
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
    ended = max(test.started + test.seconds for test in tests)
    return axis.bar(_test_kind(tests[0]), tests[0].started, ended)


def spans(account: Account, axis: Axis) -> list[Span]:
    """Return the parts of the run to choose from: the whole run, then each phase that took time."""
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


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.4g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m" if rest == 0 else f"{minutes}m {rest:02}s"
