"""Writes `.md` reports and the GitHub Actions job summary: steps, a Gantt chart, and failures."""

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
_HEAD = ("step", "outcome", "duration", "attempts", "cleanup", "reason")


def text(account: Account) -> str:
    """Return the report as GitHub-flavored Markdown."""
    return "\n".join(_lines(account)) + "\n"


def _lines(account: Account) -> Iterator[str]:
    yield f"## Plan: {_words(account.outcome)}"
    yield ""
    yield _summary(account)
    yield ""
    yield from _table(account)
    yield from (f"- {_escaped(line)}" for line in account.problems)
    if any(step.started is not None for step in account.steps):
        yield ""
        yield from _fenced(mermaid.gantt(account), "mermaid")
    failed = [step for step in account.steps if step.error or step.stack]
    for step in failed[:_MOST_FAILURES]:
        yield from _failure(step)
    if len(failed) > _MOST_FAILURES:
        yield ""
        yield f"Failed steps not shown: {len(failed) - _MOST_FAILURES}."


def _summary(account: Account) -> str:
    counted = [f"{count} {_words(name)}" for name, count in account.counts().items() if count]
    parts = [
        f"Environment `{account.environment}`",
        f"Duration: {format_duration(account.seconds)}",
        f"Tests: {', '.join(counted) or 'none'}",
    ]
    if account.reason is not None:
        parts.append(f"Stopped early: {_escaped(account.reason)}")
    if account.critical_path:
        path = " > ".join(map(_escaped, account.critical_path))
        parts.append(f"Critical path: {path}")
    return ". ".join(parts) + "."


def _table(account: Account) -> Iterator[str]:
    if not account.steps:
        yield "No steps were needed."
        return
    yield _row(_HEAD)
    yield _row(["---"] * len(_HEAD))
    # If the table is cut, the steps that failed come first.
    is_cut = len(account.steps) > _MOST_ROWS
    steps = sorted(account.steps, key=lambda step: is_cut and not step.is_bad)
    for step in steps[:_MOST_ROWS]:
        yield _row(_cells(step))
    if is_cut:
        yield ""
        yield f"Steps not shown: {len(steps) - _MOST_ROWS}."
    yield ""


def _cells(step: StepAccount) -> list[str]:
    cleanup = step.cleanup
    cleaned = cleanup.outcome is not CleanupOutcome.NONE
    return [
        f"**{_escaped(step.name)}**" if step.is_critical else _escaped(step.name),
        _words(step.outcome),
        "" if step.started is None else format_duration(step.seconds),
        f"{len(step.attempts)} of {step.attempts_allowed}" if step.attempts_allowed > 1 else "",
        f"{_words(cleanup.outcome)} {format_duration(cleanup.seconds)}" if cleaned else "",
        _escaped(step.reason or cleanup.error or ""),
    ]


def _failure(step: StepAccount) -> Iterator[str]:
    yield ""
    yield f"### {_escaped(step.name)}"
    texts = (("", step.error), ("Stack of the abandoned thread:", step.stack), ("Log:", step.log))
    for title, content in texts:
        if content:
            yield from (title, "") if title else ("",)
            yield from _fenced(content, "text")


def _fenced(content: str, kind: str) -> Iterator[str]:
    # A fence must be longer than any run of backticks inside it.
    longest = max(map(len, re.findall("`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}{kind}"
    yield content.rstrip("\n")
    yield fence


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _escaped(content: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(content.split()))
