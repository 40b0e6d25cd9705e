"""Checks histories of runs that share: `python -m tests.faults.sharing --histories 200`.

Exits with status 1 if one is wrong. The number of a history is its seed, so any of them can be
repeated alone: `python -m tests.faults.sharing --seed 17 --only redis`.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import cycle

from tests.faults.sharing.plants import PLANTS
from tests.faults.sharing.servers import KINDS
from tests.faults.sharing.story import SECONDS, Story, operations
from tests.faults.sharing.world import world
from tests.namespaces import missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the histories; return 1 if one is wrong, else 0."""
    given = _parser().parse_args(arguments)
    if reason := missing():
        sys.exit(reason)
    seeds = given.seed or range(given.first, given.first + given.histories)
    kinds = [given.only] if given.only else list(KINDS)
    todo = list(zip(seeds, cycle(kinds)))
    counted: Counter[str] = Counter()
    wrong: list[str] = []
    threads = [
        threading.Thread(target=_play, args=(kind, todo, given, counted, wrong))
        for kind in kinds
        for _ in range(max(1, given.at_once // len(kinds)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for what, count in sorted(counted.items()):
        _say(f"{count:8} {what}")
    _say(f"wrong: {', '.join(wrong) or 'none'}")
    return int(bool(wrong) or counted["histories"] < len(seeds))


def _play(
    kind: str,
    todo: list[tuple[int, str]],
    given: argparse.Namespace,
    counted: Counter[str],
    wrong: list[str],
) -> None:
    """Play the histories of one kind that are left."""
    with world(kind) as place:
        while mine := [one for one in todo if one[1] == kind]:
            todo.remove(mine[0])
            seed = mine[0][0]
            played = Story(place, seed, given.plant, given.seconds).play()
            counted["histories"] += 1
            counted.update(played.injected)
            counted.update({f"calls {k}": n for k, n in operations(played.events).items()})
            if played.wrong:
                wrong.append(f"{seed} ({kind})")
            if played.wrong or given.verbose:
                head = f"seed {seed} {kind}: {len(played.events)} calls, {dict(played.injected)}"
                _say("\n  ".join([head, *played.wrong[:5]]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.sharing", description=__doc__)
    parser.add_argument("--histories", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seed", type=int, action="append", help="only this one; repeatable")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long clients play")
    parser.add_argument("--only", choices=KINDS, help="only this server (default: alternately)")
    parser.add_argument("--at-once", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--plant", choices=[*PLANTS, ""], default="", help="plant a fault")
    parser.add_argument("--verbose", action="store_true", help="show right ones, too")
    return parser


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
