"""Histories of runs that share an environment, with real servers, faults and cut links.

`python -m tests.faults.sharing --histories 200` is the long form.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.faults.sharing.plants import FOUND
from tests.faults.sharing.servers import KINDS, missing_server
from tests.faults.sharing.story import Story
from tests.faults.sharing.world import World, world
from tests.namespaces import missing

HISTORIES = 2
SECONDS = 3.0
FIRST = 3  # a seed whose faults include a lease that lapses
MOST = 6  # histories within which a planted fault must be found

pytestmark = pytest.mark.engines  # `.ci/run` has root, the servers and the tools for these


@contextlib.contextmanager
def place(kind: str) -> Iterator[World]:
    """Create machines that share a server of a kind; skip the test if that cannot be."""
    if reason := missing() or missing_server(kind):
        pytest.skip(reason)
    with world(kind) as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_histories_with_faults_are_right(kind: str) -> None:
    """State is linearizable, epochs are provisioned and cleaned up once, and nothing is left."""
    with place(kind) as there:
        all_played = [Story(there, seed, seconds=SECONDS).play() for seed in range(HISTORIES)]
    assert [played.wrong for played in all_played] == [[]] * HISTORIES
    assert min(len(played.events) for played in all_played) > 50
    assert sum(played.injected.total() for played in all_played) > HISTORIES


def test_planted_faults_are_found() -> None:
    """The checker finds a store that does not fence, compare, lock, wait or remember its writes."""
    with place("redis") as there:
        for plant, text in FOUND.items():
            found: list[str] = []
            for seed in range(FIRST, FIRST + MOST):
                seconds = 3.0 if plant == "no fencing" else 1.5  # this takes a lease that lapses
                found += Story(there, seed, plant, seconds).play().wrong
                if any(text in one for one in found):
                    break
            else:
                pytest.fail(f"{plant} was not found: {found[:3]}")
