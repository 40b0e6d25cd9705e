"""Provisioning compared with the critical path.

These figures divide the time that a plan takes by the length of its critical path, which follows
from the durations of its steps. The steps only sleep, so anything above 1 is time that the engine
adds. In the rows with `-n 2`, the tests of two pytest-xdist workers need two chains of four steps.
The time runs from the start of the first step to the first test of the worker that waits longer.
Each figure is a median.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_plan import GenericStep, Plan
from tests.benchmarks.suite import EMPTY_PLUGIN, Suite
from tests.benchmarks.table import Row, at_most

STEPS, MOST_NEEDS = 200, 3
SHORTEST, LONGEST = 0.005, 0.050  # seconds
GRAPHS = 7
CHAIN, STEP_SECONDS = 4, 0.5  # the length of each of two chains, and so of the critical path
REPEATS = 5
TARGET = 1.05

_NAMES = [f"{chain}{number}" for chain in "ab" for number in range(CHAIN)]
_TEST = f"""
import os
import time

import pytest
from notes import note


@pytest.mark.parametrize("number", range(10))
def test_it({", ".join(_NAMES)}, number):
    note(f"test {{os.getpid()}} {{time.monotonic()}}")
"""
_HEAD = """
import json
import os
import time

import pytest
from filelock import FileLock
from notes import note

def once(tmp_path_factory, name):
    file = tmp_path_factory.getbasetemp().parent / f"{name}.json"
    with FileLock(f"{file}.lock"):
        if not file.is_file():
            provision()
            file.write_text(json.dumps(name))
    return name

def provision():
    note(f"step {os.getpid()} {time.monotonic()}")
    time.sleep(STEP_SECONDS)
"""
_PROVISION = """
def {name}({needs}):
    provision()
    yield "{name}"
"""
_FIXTURE = '\n@pytest.fixture(scope="session")'
_CONTENDERS = {
    "pytest-plan": f"\n@pytest.mark.plan_step(needs=()){_PROVISION}",
    "session fixtures": f"{_FIXTURE}{_PROVISION}",
    "the filelock recipe of pytest-xdist": f"""{_FIXTURE}
def {{name}}(tmp_path_factory, {{needs}}):
    return once(tmp_path_factory, "{{name}}")
""",
}


def rows(_other: Path | None) -> Iterator[Row]:
    """Measure and yield the rows; nothing is compared with another checkout."""
    ratios = [_graph(random.Random(seed)) for seed in range(GRAPHS)]
    yield at_most(f"random graph of {STEPS} short steps", "x", ratios, TARGET)
    yield from _with_workers()


def _graph(source: random.Random) -> float:
    """Return the ratio for one random graph, with as many jobs as steps."""
    plan = Plan(jobs=STEPS)
    ends: list[float] = []  # when each step would end, in seconds, if only sleeping took time
    for number in range(STEPS):
        needs = source.sample(range(number), min(number, source.randint(0, MOST_NEEDS)))
        duration = source.uniform(SHORTEST, LONGEST)
        plan.add_step(_sleep(duration), name=f"s{number}", needs=[f"s{need}" for need in needs])
        ends.append(duration + max((ends[need] for need in needs), default=0.0))
    begun = time.perf_counter()
    plan.execute()
    return (time.perf_counter() - begun) / max(ends)


def _sleep(duration: float) -> GenericStep:
    return GenericStep(exec=lambda: time.sleep(duration))


def _with_workers() -> Iterator[Row]:
    for name, function in _CONTENDERS.items():
        steps = [function.format(name=step, needs=_need(step)) for step in _NAMES]
        head = f"STEP_SECONDS = {STEP_SECONDS}\n{_HEAD}"
        plugin = "pytest_plan" if name == "pytest-plan" else EMPTY_PLUGIN
        files = {"conftest.py": "".join([head, *steps]), "test_it.py": _TEST}
        with Suite(files, "xdist", plugin) as suite:
            ratios = [_waited(suite) / (CHAIN * STEP_SECONDS) for _ in range(REPEATS)]
            made = sum(line.startswith("step ") for line in suite.history())
        what = f"`-n 2`, {name}: {made} steps performed"
        yield at_most(what, "x", ratios, TARGET if name == "pytest-plan" else None)


def _waited(suite: Suite) -> float:
    """Return the seconds from the first step to the first test of the worker that waits longer."""
    suite.run("-n", "2")
    history = [line.split() for line in suite.history()]
    begun = min(float(at) for what, _, at in history if what == "step")
    tests: dict[str, float] = {}
    for what, worker, at in history:
        if what == "test":
            tests.setdefault(worker, float(at))
    return max(tests.values()) - begun


def _need(name: str) -> str:
    """Return the previous step of the chain, or "" for the first step."""
    number = int(name[1:])
    return f"{name[0]}{number - 1}" if number else ""
