"""The table of injected faults in docs/reference/how-guarantees-are-tested.md."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "FAULTS_WRITE_TABLE"  # if this is set, the suite writes its table to the page
_REFERENCE = Path(__file__).parents[3] / "docs" / "reference"
PROMISES = _REFERENCE / "guarantees.md"
PAGE = _REFERENCE / "how-guarantees-are-tested.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
_COLUMNS = ("runs", "faults", "kills", "violations")


class Rows:
    """Counts of tests, runs, faults, kills and violations for each guarantee."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(_COLUMNS))
        self._tests: dict[str, int] = defaultdict(int)

    def add(self, nodeid: str, counts: Mapping[str, int]) -> None:
        """Add the counts of one test to the guarantee in its name."""
        guarantee = guarantee_of(nodeid) or "-"
        self._tests[guarantee] += 1
        row = self._counts[guarantee]
        self._counts[guarantee] = [
            old + counts[name] for old, name in zip(row, _COLUMNS, strict=True)
        ]

    def lines(self) -> list[str]:
        """Return the lines of the Markdown table, with the totals last."""
        names = sorted(self._counts, key=lambda name: int(name[1:] or 0))
        counts = [[self._tests[name], *self._counts[name]] for name in names]
        total = [sum(column) for column in zip(*counts, strict=True)]
        rows = [[name, *map(str, row)] for name, row in zip(names, counts, strict=True)]
        rows.append(["all", *map(str, total)])
        head = ["guarantee", "tests", "runs", "faults injected", "of them kills", "violations"]
        align = ["---"] + ["---:"] * (len(head) - 1)
        return [f"| {' | '.join(row)} |" for row in [head, align, *rows]]


def guarantee_of(name: str) -> str | None:
    """Return `G2` for a test whose name begins with `test_g2_`, None for other names."""
    match = re.search(r"\btest_(g\d+)_", name)
    return None if match is None else match[1].upper()


def write(rows: Rows) -> None:
    """Write the table to the page, between its two marker comments."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    table = "\n".join(rows.lines())
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
