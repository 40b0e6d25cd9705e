"""The data inside the HTML page, from which it makes what is folded only when it is unfolded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from markupsafe import Markup

from pytest_plan.report.account import Account, StepAccount, TestAccount
from pytest_plan.report.formats import chart
from pytest_plan.report.verdict import TEST_OUTCOMES

_DIGITS = 3  # seconds are rounded to milliseconds


def script(data: Mapping[str, Any]) -> Markup:
    r"""Return `data` as JSON for a `<script>` element.

    Nothing in it can end the element, or begin a comment or a script, which would hide the end of
    the element: `</` becomes `<\/`, which is the same in JSON.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    text = re.sub("<(?=[!s])", r"\\u003c", text.replace("</", r"<\/"), flags=re.IGNORECASE)
    return Markup(text)  # noqa: S704 - it cannot end the element


def dense(markup: str) -> str:
    """Return markup without the line breaks between its tags."""
    return re.sub(r">\n+<", "><", markup.strip())


class Row(Protocol):
    """A row of the timeline."""

    @property
    def step(self) -> StepAccount:
        """Its step."""

    @property
    def bars(self) -> tuple[chart.Bar, ...]:
        """Its bars."""

    @property
    def slack(self) -> float | None:
        """Its slack, in seconds; None if it did not run."""


def steps(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the data of the steps by name: what they wait for, and their bars."""
    return {
        row.step.name: {
            "needs": [*row.step.needs, *row.step.after],
            **({"bad": True} if row.step.is_bad else {}),
            "bars": sorted([bar.x, bar.width, bar.title] for bar in row.bars if bar.title),
        }
        for row in rows
    }


def tests(account: Account, texts: Mapping[int, str]) -> dict[str, Any]:
    """Return the tests as rows of a table: short, because there may be many thousands.

    Args:
        account: the account of the run.
        texts: the errors of tests, by the index of the test.
    """
    tables = {"files": _Table(), "workers": _Table(), "names": _Table(), "messages": _Table()}
    rows = [_row(test, texts.get(index, ""), tables) for index, test in enumerate(account.tests)]
    found = {name: list(table) for name, table in tables.items()}
    return {"outcomes": TEST_OUTCOMES, **found, "rows": rows}


class _Table(dict[str, int]):
    """The index of each text; a text that is new gets the next one."""

    def __missing__(self, text: str) -> int:
        self[text] = len(self)
        return self[text]


def _row(test: TestAccount, text: str, tables: Mapping[str, _Table]) -> list[Any]:
    file, separator, rest = test.node_id.partition("::")
    row: list[Any] = [
        tables["files"][file],
        rest if separator else None,
        TEST_OUTCOMES.index(test.outcome),
        round(test.started, _DIGITS),
        round(test.seconds, _DIGITS),
        tables["workers"][test.worker],
        test.stage if test.stage > 1 else "",
        [tables["names"][name] for name in test.needs],
        [tables["names"][name] for name in test.blocked_by],
        tables["messages"][test.message] if test.message else "",
        text,
    ]
    while row[-1] in ("", []):
        row.pop()
    return row
