"""`.md`, and the job summary of GitHub Actions: a table, a gantt, what failed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.report.account import Account, StepAccount
from pytest_plan.report.formats import mermaid

_MOST_ROWS = 300
_MOST_FAILURES = 20
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~<>@$-])")
_HEAD = ("step", "outcome", "took", "attempts", "cleanup", "why")


def text(account: Account) -> str:
    """Return the report as Markdown that GitHub renders."""
    return "\n".join(_lines(account)) + "\n"


def _lines(account: Account) -> Iterator[str]:
    yield f"## Plan: {_words(account.outcome)}"
    yield ""
    yield _summary(account)
    yield ""
    yield from _table(account)
    yield from (f"- {_escaped(line)}" for line in account.left)
    if any(step.started is not None for step in account.steps):
        yield ""
        yield from _fenced(mermaid.gantt(account), "mermaid")
    failed = [step for step in account.steps if step.error or step.stack]
    for step in failed[:_MOST_FAILURES]:
        yield from _failure(step)
    if len(failed) > _MOST_FAILURES:
        yield ""
        yield f"{len(failed) - _MOST_FAILURES} more steps failed."


def _summary(account: Account) -> str:
    counted = [f"{count} {_words(name)}" for name, count in account.counts().items() if count]
    parts = [
        f"Environment `{account.environment}`",
        f"{format_duration(account.seconds)} in all",
        f"tests: {', '.join(counted) or 'none'}",
    ]
    if account.reason is not None:
        parts.append(f"stopped: {_escaped(account.reason)}")
    if account.critical_path:
        path = " > ".join(map(_escaped, account.critical_path))
        parts.append(f"critical path: {path}")
    return ". ".join(parts) + "."


def _table(account: Account) -> Iterator[str]:
    if not account.steps:
        yield "No step was needed."
        return
    yield _row(_HEAD)
    yield _row(["---"] * len(_HEAD))
    # What went wrong comes first where not all can be shown.
    is_cut = len(account.steps) > _MOST_ROWS
    steps = sorted(account.steps, key=lambda step: is_cut and not step.is_bad)
    for step in steps[:_MOST_ROWS]:
        yield _row(_cells(step))
    if is_cut:
        yield ""
        yield f"{len(steps) - _MOST_ROWS} more steps are not shown."
    yield ""


def _cells(step: StepAccount) -> list[str]:
    cleanup = step.cleanup
    cleaned = cleanup.outcome is not CleanupOutcome.NONE
    why = step.reason or cleanup.error
    return [
        f"**{_escaped(step.name)}**" if step.is_critical else _escaped(step.name),
        _words(step.outcome),
        "" if step.started is None else format_duration(step.seconds),
        f"{len(step.attempts)} of {step.attempts_allowed}" if step.attempts_allowed > 1 else "",
        f"{_words(cleanup.outcome)} {format_duration(cleanup.seconds)}" if cleaned else "",
        _escaped(why or ""),
    ]


def _failure(step: StepAccount) -> Iterator[str]:
    yield ""
    yield f"### {_escaped(step.name)}"
    for title, said in (("", step.error), ("Left here:", step.stack), ("Log:", step.log)):
        if said:
            yield from (title, "") if title else ("",)
            yield from _fenced(said, "text")


def _fenced(said: str, kind: str) -> Iterator[str]:
    longest = max(map(len, re.findall("`+", said)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}{kind}"
    yield said.rstrip("\n")
    yield fence


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _escaped(said: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(said.split()))
