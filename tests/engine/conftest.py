"""Fixtures of the engine tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Calls, Gate
from tests.leftovers import nothing_left_behind  # noqa: F401


@pytest.fixture
def calls() -> Calls:
    """An empty list of calls."""
    return Calls()


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    """A clock that needs no real time; the test fails if a waiting thread was not notified."""
    clock = FakeClock()
    yield clock
    assert clock.lost_wakeups == 0


@pytest.fixture
def make_gate(clock: FakeClock) -> Iterator[Callable[[], Gate]]:
    """Creates gates, and opens all of them when the test ends."""
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate(clock))
        return gates[-1]

    yield make
    for one in gates:
        one.open()


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    """A gate, opened when the test ends."""
    return make_gate()
