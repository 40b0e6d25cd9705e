"""The table of plugins in docs/reference/plugins.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "PLUGINS_WRITE_TABLE"  # if this is set, the tests write their table to the page
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "plugins.md"
NAME = "plugin"
COLUMNS = (
    NAME, "version", "solo", "-n 2", "failed step", "failed cleanup", "blocked test",
)  # fmt: skip
_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"


class Rows:
    """What the tests have seen of each plugin, by column."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def add(self, cells: Mapping[str, str]) -> None:
        """Add the cells of one test; one of them is the name of the plugin."""
        for column, text in cells.items():
            self._seen[cells[NAME]][column].add(text)

    def lines(self) -> list[str]:
        """Return the lines of the Markdown table, by name of the plugin."""
        rows = [
            [", ".join(sorted(row[column])) or "-" for column in COLUMNS]
            for _, row in sorted(self._seen.items(), key=lambda item: item[0].lower())
        ]
        align = ["---"] * len(COLUMNS)
        return [f"| {' | '.join(row)} |" for row in [list(COLUMNS), align, *rows]]


def names() -> set[str]:
    """Return the plugins in the published table."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    rows = rest.partition(_END)[0].strip().splitlines()[2:]
    return {row.split("|")[1].strip() for row in rows}


def write(rows: Rows) -> None:
    """Write the table to the page, between its two marker comments."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    table = "\n".join(rows.lines())
    PAGE.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}", encoding="utf-8")
