"""The speed of pytest-plan, as one table: `python -m tests.benchmarks`.

It only reports: the exit status is 0 whether a target is met or not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence

import pytest

from tests.benchmarks import (
    blocked_step,
    empty_steps,
    html_report,
    journal,
    makespan,
    reuse,
    shared_environment,
    stopping,
    unused_plugin,
    worker_state,
)
from tests.benchmarks.measure import Row

GROUPS = {
    "empty_steps": empty_steps.rows,
    "makespan": makespan.rows,
    "unused_plugin": unused_plugin.rows,
    "blocked_step": blocked_step.rows,
    "html_report": html_report.rows,
    "journal": journal.rows,
    "worker_state": worker_state.rows,
    "shared_environment": shared_environment.rows,
    "reuse": reuse.rows,
    "stopping": stopping.rows,
}
HEADER = ("what", "median", "lowest to highest", "target", "met")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the groups that were asked for and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", help=f"some of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    load = _load()
    for name in options.groups or GROUPS:
        sys.stderr.write(f"{name} ...\n")
        rows += GROUPS[name]()
    machine = f"{_machine()}; load {load} before, {_load()} after"
    sys.stdout.write(_as_json(rows, machine) if options.json else _table(rows, machine))
    return 0


def _machine() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{platform.system()}, {os.cpu_count()} cores, {python}, pytest {pytest.__version__}"


def _load() -> str:
    """Return how busy the machine is: figures of a busy one say little."""
    if not hasattr(os, "getloadavg"):
        return "unknown"
    return f"{os.getloadavg()[0]:.1f}"


def _as_json(rows: Iterable[Row], machine: str) -> str:
    report = {"machine": machine, "rows": [row.as_json() for row in rows]}
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def _table(rows: Iterable[Row], machine: str) -> str:
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    rule = tuple("-" * width for width in widths)
    text = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (HEADER, rule, *lines[1:])
    ]
    return "\n".join([*text, "", machine, ""])


if __name__ == "__main__":
    sys.exit(main())
