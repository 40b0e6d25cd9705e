"""Histories of runs that share an environment, with real servers, faults and cut links.

`python -m tests.faults.sharing --histories 200` is the long form.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.sharing.plants import FOUND
from tests.faults.sharing.runs import Runs
from tests.faults.sharing.servers import KINDS, missing_server
from tests.faults.sharing.story import Played, Story
from tests.faults.sharing.world import world
from tests.namespaces import missing

HISTORIES = 2
REAL = {"redis": 1, "postgresql": 103}  # histories of runs of pytest, with several faults
SECONDS = 3.0
FIRST = 3  # a seed whose faults include a lease that lapses
MOST = 6  # histories within which a planted fault must be found

pytestmark = pytest.mark.engines  # `.ci/run` has root, the servers and the tools for these


def why_missing(*kinds: str) -> str | None:
    """Return why there can be no machines with servers of some kinds; None if there can."""
    return missing() or next(filter(None, map(missing_server, kinds)), None)


def played(kind: str, *, is_real: bool) -> list[Played]:
    """Play a few histories with a server of a kind."""
    with world(kind) as there:
        if is_real:
            return [Runs(there, REAL[kind]).play()]
        return [Story(there, seed, seconds=SECONDS).play() for seed in range(HISTORIES)]


def test_g21_histories_with_faults_are_right() -> None:
    """State is linearizable, epochs are provisioned and cleaned up once, and nothing is left."""
    if reason := why_missing(*KINDS):
        pytest.skip(reason)
    several = [(kind, is_real) for kind in KINDS for is_real in (False, True)]
    with ThreadPoolExecutor(len(several)) as threads:
        found = threads.map(lambda one: played(one[0], is_real=one[1]), several)
        all_played = [one for part in found for one in part]
    assert [one.wrong for one in all_played if one.wrong] == []
    assert sum(len(one.events) for one in all_played) > 500
    assert sum(one.injected.total() for one in all_played) > 3


def test_g21_planted_faults_are_found() -> None:
    """The checker finds a store that does not fence, compare, lock, wait or remember its writes."""
    if reason := why_missing("redis"):
        pytest.skip(reason)
    with world("redis") as there:
        for plant, text in FOUND.items():
            found: list[str] = []
            for seed in range(FIRST, FIRST + MOST):
                seconds = 3.0 if plant == "no fencing" else 1.5  # this takes a lease that lapses
                found += Story(there, seed, plant, seconds).play().wrong
                if any(text in one for one in found):
                    break
            else:
                pytest.fail(f"{plant} was not found: {found[:3]}")
