"""Plays sequences of edits, deaths and kills: `python -m tests.faults.sequences --sequences 500`.

Exits with status 1 if anything was wrong. The number of a sequence is its seed, so any of them can
be repeated alone: `python -m tests.faults.sequences --seed 41`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence as Arguments
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.sequences.story import Sequence

RUNS = 5  # in a sequence


def main(arguments: Arguments[str] | None = None) -> int:
    """Play the sequences; return 1 if anything was wrong, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.sequences", description=__doc__)
    parser.add_argument("--sequences", type=int, default=500, help="how many (default: 500)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seed", type=int, action="append", help="only this one; repeatable")
    parser.add_argument("--at-once", type=int, default=3, help="sequences at a time (default: 3)")
    options = parser.parse_args(arguments)
    seeds = options.seed or range(options.first, options.first + options.sequences)
    with ThreadPoolExecutor(options.at_once) as threads:
        wrong = [seed for seed, text in zip(seeds, threads.map(_play, seeds), strict=True) if text]
    sys.stdout.write(f"{len(seeds)} sequences, wrong: {wrong or 'none'}\n")
    return int(bool(wrong))


def _play(seed: int) -> str:
    with tempfile.TemporaryDirectory(prefix="sequence-") as folder:
        sequence = Sequence(seed, Path(folder))
        sequence.play(RUNS)
    if not sequence.wrong:
        return ""
    sys.stdout.write(f"seed {seed}:\n{sequence.told()}\n\n")
    sys.stdout.flush()
    return sequence.told()


if __name__ == "__main__":
    sys.exit(main())
