"""Writes `.md` reports and the GitHub Actions job summary: steps, a Gantt chart, and failures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.engine.model.text import visible
from pytest_plan.report.account import Account, StepAccount
from pytest_plan.report.formats import mermaid
from pytest_plan.report.terminal.instances import Group, folded, span, summary

MOST_BYTES = 1024 * 1024  # GitHub refuses a longer job summary
_NOTES = 1000  # bytes for the sentences that say what was left out
_MOST_ROWS = 300
_MOST_FAILURES = 20
_MOST_NAMES = 30  # members of a shared environment
_MOST_PROBLEMS = 100
_LONGEST_CELL = 500  # characters of a reason or problem
_LONGEST_TEXT = 20_000  # characters of one error, stack or log
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~<>@$&-])")
_HEAD = ("step", "outcome", "duration", "attempts", "cleanup", "reason")


class _Room:
    """The lines of a report that has a maximum size."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.lines: list[str] = []

    def add(self, lines: Iterable[str]) -> bool:
        """Add lines, or none of them if they do not fit; return whether they fit."""
        block = list(lines)
        size = sum(len(line.encode("utf-8", "backslashreplace")) + 1 for line in block)
        if size > self._left:
            return False
        self._left -= size
        self.lines += block
        return True

    def add_each(self, blocks: Sequence[Iterable[str]]) -> int:
        """Add blocks until one does not fit; return the number of blocks left out."""
        return next((len(blocks) - n for n, one in enumerate(blocks) if not self.add(one)), 0)

    def note(self, text: str, count: int) -> None:
        """Say what was left out, if anything was; there is always room for that."""
        if count:
            self.lines += ["", f"{text} not shown: {count}."]


def text(account: Account, most: int = MOST_BYTES) -> str:
    """Return the report as GitHub-flavored Markdown.

    Args:
        account: the account of the run.
        most: the maximum size of the report in bytes. What does not fit is left out, steps that
            did not fail first, and the report says so.
    """
    room = _Room(most - _NOTES)
    room.add([f"## {account.verdict.headline}", "", _summary(account), ""])
    if account.share is not None:
        room.add([_shared(account, account.share), ""])
    _add_table(room, account)
    problems = [[f"- {_escaped(_cut(line))}"] for line in account.problems]
    left = room.add_each(problems[:_MOST_PROBLEMS])
    room.note("Problems", left + len(problems[_MOST_PROBLEMS:]))
    if any(step.started is not None for step in account.steps):
        chart = ["", *_fenced(mermaid.gantt(account), "mermaid")]
        room.note("Charts", not room.add(chart))
    failed = [step for step in account.steps if step.error or step.stack]
    left = room.add_each([_failure(step) for step in failed[:_MOST_FAILURES]])
    room.note("Failed steps", left + len(failed[_MOST_FAILURES:]))
    return "\n".join(room.lines) + "\n"


def _summary(account: Account) -> str:
    verdict = account.verdict
    parts = [
        f"Environment `{account.environment}`",
        f"Duration: {format_duration(account.seconds)}",
        f"Tests: {verdict.tests}",
        f"Plan: {_escaped(_cut(verdict.plan))}",
        f"Cleanup: {_escaped(_cut(verdict.cleanup))}",
    ]
    if account.reason is not None:
        parts.append(f"Stopped early: {_escaped(_cut(account.reason))}")
    if account.critical_path:
        parts.append(f"Critical path: {_cut(' > '.join(map(_escaped, account.critical_path)))}")
    if verdict.advice:
        parts.append(_escaped(_cut(verdict.advice)))
    return ". ".join(parts) + "."


def _shared(account: Account, share: Mapping[str, Any]) -> str:
    members = list(map(_escaped, share["members"]))
    more = f" and {len(members) - _MOST_NAMES} more" if len(members) > _MOST_NAMES else ""
    parts = [
        f"Shared environment: this run is {account.role}",
        f"Owner: {_escaped(share['owner'])}",
        f"Members that this run has seen: {', '.join(members[:_MOST_NAMES]) or 'none'}{more}",
    ]
    if share["lost"]:
        parts.append(f"Lost: {_escaped(_cut(share['lost']))}")
    return ". ".join(parts) + "."


def _add_table(room: _Room, account: Account) -> None:
    if not account.steps:
        room.add(["No steps were needed."])
        return
    room.add([_row(_HEAD), _row(["---"] * len(_HEAD))])
    groups = list(folded(account.steps, lambda step: step.template or step.name))
    if len(groups) > _MOST_ROWS or not room.add(map(_group_row, groups)):
        # If the table is cut, the steps that failed come first.
        ordered = sorted(groups, key=lambda group: not any(step.is_bad for step in group.steps))
        left = room.add_each([[_group_row(group)] for group in ordered[:_MOST_ROWS]])
        room.note("Steps", left + len(ordered[_MOST_ROWS:]))
    room.add([""])


def _group_row(group: Group[StepAccount]) -> str:
    steps, name = group.steps, _escaped(group.name)
    is_critical = any(step.is_critical for step in steps)
    outcomes = [_words(step.outcome) + ("" if step.lost is None else ", lost") for step in steps]
    ran = [step.seconds for step in steps if step.started is not None]
    most = max(steps, key=lambda step: len(step.attempts))
    tried = len(most.attempts)
    cells = [
        f"**{name}**" if is_critical else name,
        summary(outcomes, group.labels),
        span(ran) if ran else "",
        f"{tried} of {most.attempts_allowed}" if tried and most.attempts_allowed > 1 else "",
        _cleanup(group),
        _escaped(_cut(next(filter(None, map(_reason, steps)), ""))),
    ]
    return _row(cells)


def _cleanup(group: Group[StepAccount]) -> str:
    cleaned = [
        (step.cleanup, label)
        for step, label in zip(group.steps, group.labels, strict=True)
        if step.cleanup.outcome is not CleanupOutcome.NONE
    ]
    if not cleaned:
        return ""
    outcomes = [_words(cleanup.outcome) for cleanup, _ in cleaned]
    took = span([cleanup.seconds for cleanup, _ in cleaned])
    return f"{summary(outcomes, [label for _, label in cleaned])} {took}"


def _reason(step: StepAccount) -> str:
    lost = "" if step.lost is None else step.lost.detail
    return lost or step.reason or step.cleanup.error or ""


def _failure(step: StepAccount) -> Iterator[str]:
    yield ""
    yield f"### {_escaped(step.name)}"
    texts = (("", step.error), ("Stack of the abandoned thread:", step.stack), ("Log:", step.log))
    for title, content in texts:
        if content:
            yield from (title, "") if title else ("",)
            yield from _fenced(_last_lines(content), "text")


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


def _cut(content: str) -> str:
    return content if len(content) <= _LONGEST_CELL else f"{content[:_LONGEST_CELL]}..."


def _last_lines(content: str) -> str:
    if len(content) <= _LONGEST_TEXT:
        return content
    rest = content[-_LONGEST_TEXT:]
    # The rest of a line may now be the start of one.
    return f"(earlier text omitted)\n{rest.partition(chr(10))[2] or visible(rest)}"


def _escaped(content: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(content.split()))
