"""How near a plan with room for all its steps comes to its critical path."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from pytest_plan import GenericStep, Plan
from tests.benchmarks.measure import Row, seconds

STEPS = 200
SHORTEST, LONGEST = 0.005, 0.050  # seconds
MOST_NEEDS = 3
REPEATS = 7  # each with a graph of its own
TARGET = 1.05


def rows() -> Iterator[Row]:
    """Measure, and return the lines of the table."""
    ratios = [_ratio(random.Random(seed)) for seed in range(REPEATS)]
    what = f"random graph of {STEPS} sleeps of 5 to 50 ms: makespan / critical path"
    yield Row(what, "x", ratios, TARGET)


def _ratio(source: random.Random) -> float:
    plan = Plan(jobs=STEPS)
    ends: list[float] = []  # when each step would end if nothing cost time but the sleeps
    for number in range(STEPS):
        needs = source.sample(range(number), min(number, source.randint(0, MOST_NEEDS)))
        duration = source.uniform(SHORTEST, LONGEST)
        plan.add_step(_sleep(duration), name=f"s{number}", needs=[f"s{need}" for need in needs])
        ends.append(duration + max((ends[need] for need in needs), default=0.0))
    return seconds(plan.execute) / max(ends)


def _sleep(duration: float) -> GenericStep:
    return GenericStep(exec=lambda: time.sleep(duration))
