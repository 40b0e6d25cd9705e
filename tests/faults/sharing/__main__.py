"""Checks histories of runs that share: `python -m tests.faults.sharing --histories 200`.

Each fourth history has real runs of pytest; in the others, clients call the store themselves. Exits
with status 1 if one is wrong. The number of a history is its seed, so any of them can be repeated
alone: `python -m tests.faults.sharing --seed 17`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.faults.sharing.plants import PLANTS
from tests.faults.sharing.runs import Runs
from tests.faults.sharing.servers import KINDS
from tests.faults.sharing.story import Story, operations
from tests.faults.sharing.world import world
from tests.namespaces import missing

_PROGRESS = 25  # histories between two lines
_EACH = 4  # this many histories have one of real runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the histories; return 1 if one is wrong, else 0."""
    given = _parser().parse_args(arguments)
    if reason := missing():
        sys.exit(reason)
    seeds = given.seed or list(range(given.first, given.first + given.histories))
    kinds = [kind for kind in KINDS if given.only in (None, kind)]
    todo = {kind: [seed for seed in seeds if server_of(seed) == kind] for kind in kinds}
    wanted = sum(map(len, todo.values()))
    counted: Counter[str] = Counter()
    wrong: list[int] = []
    at_once = max(1, given.at_once // len(kinds))
    with ThreadPoolExecutor(at_once * len(kinds)) as threads:
        playing = [
            threads.submit(_play, kind, todo[kind], given, counted, wrong)
            for kind in kinds
            for _ in range(at_once)
        ]
        try:
            for one in playing:
                one.result()
        except BaseException:
            for seeds in todo.values():
                seeds.clear()  # the present histories end
            raise
    for what, count in sorted(counted.items()):
        _say(f"{count:8} {what}")
    _say(f"wrong: {', '.join(map(str, wrong)) or 'none'}")
    return int(bool(wrong) or counted["histories"] < wanted)


def server_of(seed: int) -> str:
    """Return the kind of the server of a history."""
    return KINDS[(seed + seed // _EACH) % len(KINDS)]


def _play(
    kind: str,
    todo: list[int],
    given: argparse.Namespace,
    counted: Counter[str],
    wrong: list[int],
) -> None:
    """Play the histories with a kind of server as long as there are any."""
    with world(kind) as place:
        while todo:
            try:
                seed = todo.pop(0)
            except IndexError:  # another thread was faster
                return
            is_real = seed % _EACH == _EACH - 1
            story = (Runs if is_real else Story)(place, seed, given.plant)
            played = story.play()
            counted["histories"] += 1
            counted["histories of runs of pytest"] += is_real
            if counted["histories"] % _PROGRESS == 0:
                _say(f"{counted['histories']} histories, wrong: {len(wrong)}")
            counted.update({f"fault: {what}": n for what, n in played.injected.items()})
            counted.update({f"calls {what}": n for what, n in operations(played.events).items()})
            if played.wrong:
                wrong.append(seed)
            if played.wrong or given.verbose:
                head = f"seed {seed} {kind}: {len(played.events)} calls, {dict(played.injected)}"
                _say("\n  ".join([head, *played.wrong[:5]]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.sharing", description=__doc__)
    parser.add_argument("--histories", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seed", type=int, action="append", help="only this one; repeatable")
    parser.add_argument("--only", choices=KINDS, help="only histories with this server")
    parser.add_argument("--at-once", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--plant", choices=[*PLANTS, ""], default="", help="plant a fault")
    parser.add_argument("--verbose", action="store_true", help="show right ones, too")
    return parser


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
