"""The long form: `python -m tests.faults.watching`, 100 runs of 20 quiet and 2 killed steps.

Exits with status 1 if a step was lost that must not be, or was not lost that must be. The number of
a run is its seed, so any run can be repeated alone: `python -m tests.faults.watching --seed 17`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.watching.play import Drawn, draw, play
from tests.faults.watching.project import FATES


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the runs; return 1 if there was a violation, else 0."""
    options = _parser().parse_args(arguments)
    seeds = options.seed or range(options.first, options.first + options.runs)
    counted: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="watching-") as folder,
        ThreadPoolExecutor(options.at_once) as pool,
    ):
        runs = [draw(seed) for seed in seeds]
        for drawn, wrong in zip(runs, pool.map(lambda one: _play(one, folder), runs), strict=True):
            counted.update(drawn.fates.values())
            counted["violation"] += len(wrong)
            if wrong:
                _say(f"seed {drawn.seed}: {'; '.join(wrong)}")
    deadly = sum(counted[name] for name, fate in FATES.items() if fate.is_deadly)
    quiet = sum(counted[name] for name, fate in FATES.items() if not fate.is_deadly)
    violations = counted["violation"]
    _say(f"{quiet} quiet steps, {deadly} killed steps, {violations} violations")
    return int(violations > 0)


def _play(drawn: Drawn, folder: str) -> list[str]:
    with tempfile.TemporaryDirectory(dir=folder) as own:
        return play(drawn, Path(own))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.watching", description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="how many runs (default: 100)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seed", type=int, action="append", help="only this run; repeatable")
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time (default: 2)")
    return parser


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
