"""The tests of a project in a history: they count, and see that the environment is there."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from tests.faults.sharing.logged import COUNTER
from tests.faults.sharing.project.traces import SECONDS, WORLD, note

TESTS = 4


def increment(state: Any) -> None:
    """Increment the counter by one, by compare-and-swap."""
    mine = uuid.uuid4().hex
    if state.setdefault(COUNTER, [1, mine])[1] == mine:
        return
    while True:
        old = state[COUNTER]
        if state.compare_and_swap(COUNTER, old, [old[0] + 1, mine]):
            return


@pytest.mark.parametrize("number", range(TESTS))
def test_all(db: list[str], net: str, plan: Any, number: int) -> None:
    """The environment is there until the end of the test."""
    tokens = [db[0], net]
    assert db[1] == net
    note("test begun", test=number, tokens=tokens)
    try:
        until = time.monotonic() + SECONDS / TESTS
        while time.monotonic() < until:
            increment(plan.state)
            time.sleep(0.05)
            with plan.state.lock("device"):
                time.sleep(0.01)
    finally:
        there = [(WORLD / token).exists() for token in tokens]
        note("test ended", test=number, tokens=tokens, there=there)
    assert there == [True, True]
