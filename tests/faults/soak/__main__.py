"""The long form of the soak: `python -m tests.faults.soak --runs 1000`.

Exits with status 1 if there was a violation. The number of a run is its seed, so any run can be
repeated alone: `python -m tests.faults.soak --seed 417`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.faults.harness.scenario import Run, Stage, Tally, story_of
from tests.faults.harness.zygote import Zygote
from tests.faults.soak import table
from tests.faults.soak.plans import draw
from tests.faults.soak.story import Injected, play


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the runs; return 1 if there was a violation, else 0."""
    options = _parser().parse_args(arguments)
    for stop in (signal.SIGINT, signal.SIGTERM):  # a background process ignores SIGINT
        signal.signal(stop, signal.default_int_handler)
    seeds = options.seed or range(options.first, options.first + options.runs)
    injected: Injected = Counter()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        Path(folder).chmod(0o711)
        tempfile.tempdir = folder
        zygote = Zygote()
        stage = Stage(Tally(), zygote)
        for seed in seeds:
            stage.add(str(seed), play, draw(seed), injected)
        for number, run in enumerate(stage.runs(options.at_once), 1):
            injected["violation"] += len(run.wrong)
            if run.wrong or options.verbose:
                _say(_described(run))
            if number % 50 == 0:
                minutes = (time.monotonic() - begun) / 60
                _say(f"{number} runs, {injected['violation']} violations, {minutes:.1f} min")
        zygote.close()
        tempfile.tempdir = None
    _say("\n".join(table.lines(injected)))
    if options.write:
        table.write(injected)
    return int(injected["violation"] > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="how many runs (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seed", type=int, action="append", help="only this run; repeatable")
    parser.add_argument("--at-once", type=int, default=6, help="runs at a time (default: 6)")
    parser.add_argument("--write", action="store_true", help="write the table to the page")
    parser.add_argument("--verbose", action="store_true", help="show right runs, too")
    return parser


def _described(run: Run) -> str:
    return f"seed {run.name}: {'; '.join(run.wrong) or 'right'}\n{story_of(run)}\n"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
