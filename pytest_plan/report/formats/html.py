"""Writes `.html` reports: a single, self-contained page that needs no network access.

What failed is markup from the beginning, so that it is there without JavaScript. Details that are
folded, and tests, are data. The script of the page makes elements from it when they are unfolded.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.text import printable
from pytest_plan.report.account import Account, StepAccount, TestAccount
from pytest_plan.report.formats import chart, drawing, embedded, times
from pytest_plan.report.terminal.instances import Group, folded, span, summary

_FOLDER = importlib.resources.files("pytest_plan.report.formats") / "page"
_SCRIPTS = ("page.js", "timeline.js", "steps.js", "tests.js")  # in this order
_TEXT_BUDGET = 1_500_000  # characters of all errors, stacks and logs together
_LONGEST_TEXT = 20_000  # characters of one error, stack or log
_MOST_CARDS = 5  # failed steps that are shown in full at the top
_MOST_ROWS = 200  # rows of the timeline when the page opens; the others are folded
_MOST = {
    "attempts": chart.MOST_ATTEMPTS,
    "boxes": 60,  # steps in a graph that is drawn when the page opens
    "names": 30,  # steps in a list
    "path": 12,  # steps of the critical path
    "problems": 20,  # steps that did not succeed, each on a line at the top
    "tests": 20,  # failed tests at the top
    "unfolded": 3,  # of them are unfolded when the page opens
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
        artifacts: the name of each of its artifacts, and the link to it.
        blocked: the number of tests that it blocked.
        slack: see `times.Spent`; None if it did not run.
    """

    step: StepAccount
    bars: tuple[chart.Bar, ...]
    needed_by: tuple[str, ...]
    error: str
    stack: str
    log: str
    link: str | None
    artifacts: tuple[tuple[str, str], ...]
    blocked: int
    slack: float | None

    @property
    def shapes(self) -> list[chart.Shape]:
        """Its bars as shapes."""
        return chart.shapes(self.bars)


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
        folder: the folder of the file, to which links to logs and artifacts are relative; None
            means that the page has no such links.
    """
    budget = _Budget(_TEXT_BUDGET)
    spent = times.of(account)
    axis = chart.Axis(account)
    rows = _rows(account, axis, spent, folder, budget)
    cards = [row for row in rows if _explains(row.step)][:_MOST_CARDS]
    texts = _test_texts(account.tests, budget)
    groups = _groups(account, rows)
    failed = [index for index in texts if account.tests[index].outcome in ("failed", "error")]
    context = {
        "account": account,
        "axis": axis,
        "times": spent,
        "cards": cards,
        "problems": [row for row in rows if row.step.is_bad and row not in cards],
        "failed_tests": [(account.tests[index], texts[index]) for index in failed],
        "groups": groups[:_MOST_ROWS],
        "later": sum(len(group.rows) for group in groups[_MOST_ROWS:]),
        "lanes": chart.lanes(account, axis),
        "spans": chart.spans(account, axis),
        "drawing": drawing.draw(account.steps),
        "most": _MOST,
        "began": datetime.fromtimestamp(account.began_at, UTC),
        "is_link": account.ci_job.startswith(("https://", "http://")),
    }
    return _page(context, rows, groups, embedded.tests(account, texts))


def _page(
    context: dict[str, Any], rows: Sequence[Row], groups: Sequence[Rows], tests: dict[str, Any]
) -> str:
    """Return the page; what is folded on it is in its data."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = format_duration
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["shapes"] = chart.shapes
    environment.filters["shell"] = shlex.quote
    macros: Any = environment.get_template("parts.html").module
    drawn = context["drawing"]
    carded = {row.step.name for row in context["cards"]}
    details = {row.step.name: macros.detail(row) for row in rows if row.step.name not in carded}
    folds = {
        **{f"group {group.name}": macros.rows(group.rows) for group in groups if group.name},
        "later": "".join(map(macros.group, groups[_MOST_ROWS:])),
        "graph": macros.graph(drawn) if _is_large(drawn) else "",
    }
    data = {
        "seconds": context["axis"].seconds,
        "steps": embedded.steps(rows),
        "details": {name: embedded.dense(markup) for name, markup in details.items()},
        "folds": {name: embedded.dense(markup) for name, markup in folds.items()},
        "tests": tests,
    }
    script = "".join(map(_source, _SCRIPTS))
    page = environment.get_template("page.html").render(
        context,
        data=embedded.script(data),
        style=Markup(_source("page.css")),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return printable(page, "utf-8")


def _is_large(drawn: drawing.Drawing | None) -> bool:
    return drawn is not None and len(drawn.boxes) > _MOST["boxes"]


def _source(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _test_texts(tests: Sequence[TestAccount], budget: _Budget) -> dict[int, str]:
    """Return the errors of the tests that failed, by the index of the test."""
    failed = (index for index, test in enumerate(tests) if test.outcome in ("failed", "error"))
    return {index: budget.cut(tests[index].text) for index in failed}


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


def _rows(
    account: Account, axis: chart.Axis, spent: times.Times, folder: Path | None, budget: _Budget
) -> list[Row]:
    steps = {step.name: step for step in account.steps}
    needed_by = _needed_by(account.steps)
    blocked = Counter(name for test in account.tests for name in test.blocked_by)
    # Failed steps use the budget first.
    texts = {
        step.name: (budget.cut(step.error), budget.cut(step.stack), budget.cut(step.log))
        for step in sorted(account.steps, key=lambda step: not step.is_bad)
    }
    return [
        Row(
            step,
            chart.step_bars(step, chart.ready_at(step, steps), axis),
            tuple(needed_by[step.name]),
            *texts[step.name],
            link=None if step.log_file is None else _link(step.log_file, folder),
            artifacts=_artifacts(step, folder),
            blocked=blocked[step.name],
            slack=spent.spent[step.name].slack if step.name in spent.spent else None,
        )
        for step in account.steps
    ]


def _explains(step: StepAccount) -> bool:
    """Return whether a reader of a failed run looks for this step first."""
    return step.outcome.is_failure or step.lost is not None or step.cleanup.is_bad


def _artifacts(step: StepAccount, folder: Path | None) -> tuple[tuple[str, str], ...]:
    links = ((Path(path).name, _link(path, folder)) for path in step.artifacts)
    return tuple((name, link) for name, link in links if link is not None)


def _link(path: str, folder: Path | None) -> str | None:
    """Return the link to a file from a page in `folder`."""
    if folder is None:
        return None
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return quote(printable(relative, "utf-8"))


def _needed_by(steps: Iterable[StepAccount]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {step.name: [] for step in steps}
    for step in steps:
        for need in step.needs:
            found.setdefault(need, []).append(step.name)
    return found
