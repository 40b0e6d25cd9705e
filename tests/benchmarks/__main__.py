"""Benchmarks of pytest-plan: `python -m tests.benchmarks`.

The benchmarks only report: the exit status is 0 even if a target is not met.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.benchmarks import instructions
from tests.benchmarks.groups import (
    critical_path,
    engine,
    html_report,
    imports,
    journal,
    overlap,
    reuse,
    sharing,
    stages,
    startup,
    state,
    state_writes,
    stopping,
    watching,
)
from tests.benchmarks.table import Row, markdown

COUNTED = {
    "engine": engine,
    "imports": imports,
    "startup": startup,
    "reuse": reuse,
    "state_writes": state_writes,
    "watching": watching,
    "stages": stages,
}
GROUPS = {
    **COUNTED,
    "critical_path": critical_path,
    "journal": journal,
    "state": state,
    "sharing": sharing,
    "stopping": stopping,
    "html_report": html_report,
    "overlap": overlap,
}
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the groups in `arguments` and print their tables; return 0."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    if options.write and (options.groups or options.against or options.json):
        parser.error("--write takes no other argument, because the page shows all groups")
    results = {name: _rows(name, options.against) for name in options.groups or GROUPS}
    text = _as_json(results) if options.json else _tables(results, bool(options.against))
    sys.stdout.write(text)
    if options.write:
        _write(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "groups", nargs="*", help=f"groups to measure, of {', '.join(GROUPS)}; default: all"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--write", action="store_true", help=f"also write docs/reference/{PAGE.name}"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="PATH",
        help=f"another checkout to compare {', '.join(COUNTED)} with",
    )
    return parser


def _rows(name: str, other: Path | None) -> list[Row]:
    if name in COUNTED and not instructions.is_available():
        return [Row("skipped", "valgrind is not installed")]
    sys.stderr.write(f"{name} ...\n")
    return list(GROUPS[name].rows(other and other.resolve()))


def _as_json(results: dict[str, list[Row]]) -> str:
    report = {
        "versions": _versions(),
        "groups": {name: [asdict(row) for row in rows] for name, rows in results.items()},
    }
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def _tables(results: dict[str, list[Row]], has_other: bool) -> str:
    """Return a section for each group; its module's docstring is the heading and explanation."""
    sections = []
    for name, rows in results.items():
        title, _, explanation = (GROUPS[name].__doc__ or name).partition("\n")
        table = markdown(rows, has_other=has_other and name in COUNTED)
        sections.append(f"## {title.rstrip('.')}\n\n{explanation.strip()}\n\n{table}\n")
    return "\n".join([*sections, f"{_versions()}\n"])


def _versions() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"Measured with {python} and pytest {pytest.__version__} on {platform.system()}."


def _write(text: str) -> None:
    """Replace the text between the two marker comments of the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
