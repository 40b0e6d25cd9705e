"""Writes `.html` reports: a single, self-contained page that needs no network access."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.report.account import Account, StepAccount, TestAccount
from pytest_plan.report.formats import chart, drawing
from pytest_plan.report.terminal.instances import Group, folded, span, summary
from pytest_plan.report.verdict import BAD_TEST_OUTCOMES

_FOLDER = importlib.resources.files("pytest_plan.report.formats") / "page"
_TEXT_BUDGET = 1_500_000  # characters of all errors, stacks and logs together
_LONGEST_TEXT = 20_000  # characters of one error, stack or log
_MOST_TESTS = 300  # failed and blocked tests in the table
_SLOWEST = 20  # other tests in the table
_MOST_OPEN = 5  # failed steps that are unfolded when the page opens
_ICONS = {
    StepOutcome.SUCCEEDED: "✓",
    StepOutcome.REUSED: "↺",
    StepOutcome.FAILED: "✗",
    StepOutcome.TIMED_OUT: "◔",
    StepOutcome.SKIPPED: "↷",
    StepOutcome.CANCELLED: "■",
    StepOutcome.BLOCKED: "⊘",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A step as shown on the page; long texts are truncated to limit the size of the file.

    Attributes:
        step: the account of the step.
        bars: its bars on the timeline.
        needed_by: the names of the steps that need it.
        error: its errors, with tracebacks.
        stack: the stack of its thread when it was abandoned.
        log: the last lines of its log.
        link: the link to the whole log; None if there is none.
        is_open: whether it is unfolded when the page opens.
    """

    step: StepAccount
    bars: tuple[chart.Bar, ...]
    needed_by: tuple[str, ...]
    error: str
    stack: str
    log: str
    link: str | None
    is_open: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a step, or of all instances of a step that has many.

    Attributes:
        rows: the rows.
        name: the name that is shown for all instances together; "" if the row stands alone.
        outcome: their outcomes in words.
        took: their shortest and longest durations; "" if none of them ran.
    """

    rows: Sequence[Row]
    name: str = ""
    outcome: str = ""
    took: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether any of them is bad."""
        return any(row.step.is_bad for row in self.rows)


class _Budget:
    """Truncates texts so that their total length does not exceed a number of characters."""

    def __init__(self, characters: int) -> None:
        self._left = characters

    def cut(self, text: str) -> str:
        """Return as many of the last lines of `text` as the budget still allows."""
        room = min(self._left, _LONGEST_TEXT)
        kept = text if len(text) <= room else text[len(text) - room :].partition("\n")[2]
        self._left -= len(kept)
        return kept if len(kept) == len(text) else f"(earlier lines omitted)\n{kept}"


def text(account: Account, folder: Path | None = None) -> str:
    """Return the report as an HTML document.

    Args:
        account: the account of the run.
        folder: the folder of the file, to which links to logs are relative; None means that the
            page has no such links.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = format_duration
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    script = _source("page.js")
    axis = chart.Axis(account)
    rows = _rows(account, axis, folder)
    return environment.get_template("page.html").render(
        account=account,
        axis=axis,
        rows=rows,
        groups=_groups(account, rows),
        lanes=chart.lanes(account, axis),
        spans=chart.spans(account, axis),
        drawing=drawing.draw(account.steps),
        tests=_tests(account.tests),
        icons=_ICONS,
        began=datetime.fromtimestamp(account.began_at, UTC),
        most_attempts=chart.MOST_ATTEMPTS,
        style=Markup(_source("page.css")),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _source(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _groups(account: Account, rows: Sequence[Row]) -> list[Rows]:
    of_steps = {row.step.name: row for row in rows}
    groups = folded(account.steps, lambda step: step.template or step.name)
    return [_group(group, [of_steps[step.name] for step in group.steps]) for group in groups]


def _group(group: Group[StepAccount], rows: Sequence[Row]) -> Rows:
    if len(rows) == 1:
        return Rows(rows)
    outcomes = [step.outcome.value.replace("_", " ") for step in group.steps]
    ran = [step.seconds for step in group.steps if step.started is not None]
    return Rows(rows, group.name, summary(outcomes, group.labels), span(ran) if ran else "")


def _rows(account: Account, axis: chart.Axis, folder: Path | None) -> list[Row]:
    steps = {step.name: step for step in account.steps}
    needed_by = _needed_by(account.steps)
    budget = _Budget(_TEXT_BUDGET)
    # Failed steps use the budget first.
    texts = {
        step.name: (budget.cut(step.error), budget.cut(step.stack), budget.cut(step.log))
        for step in sorted(account.steps, key=lambda step: not step.is_bad)
    }
    unfolded = [step.name for step in account.steps if _explains(step)][:_MOST_OPEN]
    return [
        Row(
            step,
            chart.step_bars(step, chart.ready_at(step, steps), axis),
            tuple(needed_by[step.name]),
            *texts[step.name],
            link=_link(step, folder),
            is_open=step.name in unfolded,
        )
        for step in account.steps
    ]


def _explains(step: StepAccount) -> bool:
    """Return whether a reader of a failed run looks for this step first."""
    return step.outcome.is_failure or step.lost is not None or step.cleanup.is_bad


def _link(step: StepAccount, folder: Path | None) -> str | None:
    if folder is None or step.log_file is None:
        return None
    return quote(Path(os.path.relpath(step.log_file, folder)).as_posix())


def _needed_by(steps: Iterable[StepAccount]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {step.name: [] for step in steps}
    for step in steps:
        for need in step.needs:
            found.setdefault(need, []).append(step.name)
    return found


def _tests(tests: Sequence[TestAccount]) -> list[TestAccount]:
    """Return the tests to list: failed tests, blocked tests, then the slowest of the others."""
    bad = [test for test in tests if test.outcome in BAD_TEST_OUTCOMES]
    bad.sort(key=lambda test: test.outcome == "blocked")
    shown = bad[:_MOST_TESTS]
    slowest = sorted(tests, key=lambda test: test.seconds, reverse=True)[: _SLOWEST + len(shown)]
    known = {id(test) for test in shown}
    shown += [test for test in slowest if id(test) not in known][:_SLOWEST]
    return shown
