"""Provisioning against the critical path.

The time of a plan divided by its critical path, which follows from the durations of its steps. The
steps only sleep, so what exceeds 1 is the time that the engine adds. In the rows with `-n 2` two
pytest-xdist workers need eight steps, in two chains of four. The time of the same tests without
provisioning is subtracted, and all contenders run alternately. Each figure is a median.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from pytest_plan import GenericStep, Plan
from tests.benchmarks.suite import EMPTY_PLUGIN, Suite
from tests.benchmarks.table import Row, at_most

STEPS, MOST_NEEDS = 200, 3
SHORTEST, LONGEST = 0.005, 0.050  # seconds
GRAPHS = 7
CHAIN, STEP_SECONDS = 4, 0.5  # each of two chains; the critical path is the first 4 steps
ROUNDS = 5
TARGET = 1.05

_NAMES = [f"{chain}{number}" for chain in "ab" for number in range(CHAIN)]
_TEST = f"""
import time

import pytest


@pytest.mark.parametrize("number", range(200))
def test_it({", ".join(_NAMES)}, number):
    time.sleep(0.005)
"""
_HEAD = """
import json
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
    time.sleep(STEP_SECONDS)
    note("provisioned")
"""
_PROVISION = """
def {name}({needs}):
    provision()
    yield "{name}"
    note("cleaned")
"""
_FIXTURE = '\n@pytest.fixture(scope="session")'
_CONTENDERS = {
    "pytest-plan": f"\n@pytest.mark.plan_step(needs=()){_PROVISION}",
    "session fixtures": f"{_FIXTURE}{_PROVISION}",
    "the filelock recipe of pytest-xdist": f"""{_FIXTURE}
def {{name}}(tmp_path_factory, {{needs}}):
    return once(tmp_path_factory, "{{name}}")
""",
    "tests alone": f'{_FIXTURE}\ndef {{name}}():\n    return "{{name}}"\n',
}


def rows(_other: Path | None) -> Iterator[Row]:
    """Measure, and yield the rows; nothing is compared with another checkout."""
    ratios = [_graph(random.Random(seed)) for seed in range(GRAPHS)]
    yield at_most(f"random graph of {STEPS} short steps", "x", ratios, TARGET)
    yield from _with_workers()


def _graph(source: random.Random) -> float:
    """Return the ratio for one random graph, with as many jobs as steps."""
    plan = Plan(jobs=STEPS)
    ends: list[float] = []  # of each step, in seconds, if only sleeping took time
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
    with ExitStack() as stack:
        suites = {name: stack.enter_context(_suite(name)) for name in _CONTENDERS}
        rounds = [_round(suites, number) for number in range(ROUNDS)]
        for name in [*_CONTENDERS][:-1]:
            ratios = [(one[name] - one["tests alone"]) / (CHAIN * STEP_SECONDS) for one in rounds]
            history = suites[name].history()
            made, cleaned = (history.count(word) for word in ("provisioned", "cleaned"))
            what = f"`-n 2`, {name}: {made} provisioned, {cleaned} cleaned"
            yield at_most(what, "x", ratios, TARGET if name == "pytest-plan" else None)


def _round(suites: dict[str, Suite], number: int) -> dict[str, float]:
    names = [*suites]
    return {name: suites[name].run("-n", "2") for name in names[:: -1 if number % 2 else 1]}


def _suite(contender: str) -> Suite:
    steps = [_CONTENDERS[contender].format(name=name, needs=_need(name)) for name in _NAMES]
    head = f"STEP_SECONDS = {STEP_SECONDS}\n{_HEAD}"
    files = {"conftest.py": "".join([head, *steps]), "test_it.py": _TEST}
    return Suite(files, "xdist", "pytest_plan" if contender == "pytest-plan" else EMPTY_PLUGIN)


def _need(name: str) -> str:
    """Return the step before it in its chain; empty for the first."""
    number = int(name[1:])
    return f"{name[0]}{number - 1}" if number else ""
