"""The table of the soak in docs/reference/how-guarantees-are-tested.md."""

from __future__ import annotations

from collections import Counter

from tests.faults.harness.table import PAGE

BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"
_GROUPS = (
    ("runs", "run "),
    ("steps begun", "step "),
    ("programs started", "program "),
    ("faults in steps", "fault step "),
    ("faults in tests", "fault test "),
    ("signals sent", "SIG"),
)


def lines(injected: Counter[str]) -> list[str]:
    """Return the lines of the Markdown table, with the violations last."""
    rows = [["injected", "count", "of them"], ["---", "---:", "---"]]
    for title, prefix in _GROUPS:
        kinds = {kind: count for kind, count in injected.items() if kind.startswith(prefix)}
        start = 0 if prefix == "SIG" else len(prefix)
        parts = [f"{count} {kind[start:]}" for kind, count in sorted(kinds.items())]
        rows.append([title, str(sum(kinds.values())), ", ".join(parts)])
    rows.append(["violations", str(injected["violation"]), ""])
    return [f"| {' | '.join(row)} |" for row in rows]


def write(injected: Counter[str]) -> None:
    """Write the table to the page, between its two marker comments."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    table = "\n".join(lines(injected))
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
