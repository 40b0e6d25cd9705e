"""Waves of tests in simulated workers: thousands of runs, with the schedulers of pytest-xdist.

`WAVES_EXAMPLES=100000 pytest tests/xdist/test_waves.py` tries more of them.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.xdist.workers import KINDS, SimulatedTest, Simulation

EXAMPLES = int(os.environ.get("WAVES_EXAMPLES", "60"))
MORTAL = ("load", "worksteal", "each")  # others run the test again in which a worker has died


@pytest.mark.parametrize("kind", KINDS)
def test_every_test_runs_once_and_not_too_early(kind: str) -> None:
    """Whatever ends when, and whichever worker dies: no run hangs, and each test has its turn."""
    for seed in range(EXAMPLES):
        chance = random.Random(f"{kind} {seed}")
        simulation = drawn(kind, chance)
        simulation.run()
        times = simulation.workers if kind == "each" else 1
        assert simulation.violations == [], seed
        wrong = {one: simulation.ran[one] for one in simulation.ids if simulation.ran[one] != times}
        assert wrong == {}, seed
        assert not any(node.is_up for node in simulation.nodes), seed


def drawn(kind: str, chance: random.Random) -> Simulation:
    """Return a random simulation."""
    ranks = chance.choice([1, 1, 1, 2, 3])
    steps = {f"s{number}": chance.randrange(ranks) for number in range(chance.randint(0, 6))}
    tests = []
    for _ in range(chance.randint(1, 40)):
        names = chance.sample(list(steps), min(len(steps), chance.choice([0, 0, 1, 2])))
        rank = max((steps[name] for name in names), default=0)
        dies = kind in MORTAL and chance.random() < 0.06
        alone = chance.random() < 0.05
        tests.append(SimulatedTest(rank, alone, chance.randrange(6), tuple(names), dies))
    return Simulation(kind, chance.randint(1, 4), tests, steps, chance)
