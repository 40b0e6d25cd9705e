"""Writes `.mmd` reports, which show the graph of steps, and the Gantt chart of `.md` reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.report.account import Account, StepAccount

_MOST_BARS = 60  # per section of a Gantt chart; Mermaid rejects very long texts
_SHORT = 30.0  # seconds; the axis of a shorter run shows fractions of a second
_CLASSES = {
    StepOutcome.SUCCEEDED: "good",
    StepOutcome.REUSED: "good",
    StepOutcome.FAILED: "bad",
    StepOutcome.TIMED_OUT: "bad",
}
_STYLES = (
    "classDef good fill:#d7f0dd,stroke:#1a7f37,color:#0b3d1a",
    "classDef bad fill:#ffdcd7,stroke:#cf222e,color:#67060c",
    "classDef odd fill:#fff1cc,stroke:#9a6700,color:#4d3300",
)


def text(account: Account) -> str:
    """Return the graph of a run, with each step colored by its outcome."""
    classes = [
        f"class s{number} {_CLASSES.get(step.outcome, 'odd')}"
        for number, step in enumerate(account.steps)
    ]
    return graph(account.steps, [*classes, *_STYLES, f"%% {account.verdict.headline}"])


def graph(steps: Sequence[StepAccount | PlannedStep], more: Iterable[str] = ()) -> str:
    """Return a flowchart with solid arrows for needs and dotted arrows for order edges.

    Args:
        steps: the steps of a run, or of a plan that has not run.
        more: additional lines of Mermaid code, such as styles.
    """
    numbers = {step.name: number for number, step in enumerate(steps)}
    lines = [f's{number}["{_quoted(name)}"]' for name, number in numbers.items()]
    for step in steps:
        here = numbers[step.name]
        lines += [f"s{numbers[need]} --> s{here}" for need in step.needs]
        lines += [f"s{numbers[before]} -.-> s{here}" for before in step.after]
    return "\n".join(["flowchart TD", *(f"    {line}" for line in (*lines, *more))]) + "\n"


def gantt(account: Account) -> str:
    """Return a Gantt chart with sections for provisioning, tests and cleanup.

    A section with too many steps shows only the longest ones.
    """
    ran = [step for step in account.steps if step.started is not None]
    shown = _longest(ran, lambda step: step.seconds)
    cleaned = [step for step in account.steps if step.cleanup.started is not None]
    is_short = account.seconds < _SHORT
    lines = [
        f"title provision, tests, cleanup ({'seconds' if is_short else 'minutes:seconds'})",
        "dateFormat x",
        f"axisFormat {'%S.%L' if is_short else '%M:%S'}",
        *_section("provision", (_bar(s.name, s.started, s.seconds, _tag(s)) for s in shown)),
        *_section("tests", _test_bars(account)),
        *_section("cleanup", _cleanup_bars(_longest(cleaned, lambda step: step.cleanup.seconds))),
    ]
    return "\n".join(["gantt", *(f"    {line}" for line in lines)]) + "\n"


def _longest(
    steps: Sequence[StepAccount], seconds: Callable[[StepAccount], float]
) -> list[StepAccount]:
    kept = {step.name for step in sorted(steps, key=seconds, reverse=True)[:_MOST_BARS]}
    return [step for step in steps if step.name in kept]


def _section(name: str, bars: Iterable[str]) -> list[str]:
    found = list(bars)
    return [f"section {name}", *found] if found else []


def _test_bars(account: Account) -> Iterator[str]:
    for worker, tests in list(account.tests_by_worker().items())[:_MOST_BARS]:
        began = min(test.started for test in tests)
        ended = max(test.started + test.seconds for test in tests)
        count = "1 test" if len(tests) == 1 else f"{len(tests)} tests"
        yield _bar(f"{worker}, {count}", began, ended - began, "active")


def _cleanup_bars(steps: Iterable[StepAccount]) -> Iterator[str]:
    for step in steps:
        tag = "crit" if step.cleanup.is_bad else "done"
        yield _bar(step.name, step.cleanup.started, step.cleanup.seconds, tag)


def _tag(step: StepAccount) -> str:
    if step.outcome.is_failure:
        return "crit"
    return "done" if step.outcome.provides else "active"


def _bar(name: str, started: float | None, seconds: float, tag: str) -> str:
    began = round((started or 0.0) * 1000)
    name = re.sub("[:;#]", "_", name)  # the folder in a name may have what ends a name in a chart
    return f"{name} :{tag}, {began}, {began + max(1, round(seconds * 1000))}"


def _quoted(name: str) -> str:
    return name.replace("#", "#35;").replace('"', "#quot;")
