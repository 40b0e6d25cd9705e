"""Reading the State in a worker.

These figures divide the time to read a value of the State in a pytest-xdist worker by the time that
a plain execnet channel between the same two processes takes to answer with the same pickle. One
test measures both alternately, and the figure is the median of several runs. In the last row, 16
workers increment the same value.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.suite import Suite
from tests.benchmarks.table import Row, at_most

REPEATS = 5
MOST = 1.5
SIZES = {"small": "a small value", "large": "1 MB"}
WORKERS, INCREMENTS = 16, 300
MOST_SPREAD = 3.0

PLUGINS = ("xdist", "pytest_plan")
VALUES = """
import pytest

VALUES = {"small": {"host": "127.0.0.1", "port": 5432}, "large": b"x" * 1_000_000}


@pytest.mark.plan_step
def values(state):
    state["small"], state["large"] = VALUES["small"], VALUES["large"]
"""
_CHANNEL = """
import pickle


class Raw:
    '''The controller's side of the plain channel: answers each key with a pickle.'''

    def __init__(self):
        self.data = {key: pickle.dumps(value, 5) for key, value in VALUES.items()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node):
        channel = node.gateway.newchannel()
        channel.setcallback(lambda key: channel.send(self.data[key]))
        node.workerinput["raw"] = channel


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Raw())
"""
_READS = """
import json
import pickle
import time

import pytest
from notes import note


def timed(function, count):
    began = time.perf_counter()
    for _ in range(count):
        function()
    return time.perf_counter() - began


@pytest.mark.plan("values")
@pytest.mark.parametrize(("key", "count"), [("small", 100), ("large", 10)])
def test_reads(plan, request, key, count):
    raw, state = request.config.workerinput["raw"], plan.state

    def read():
        raw.send(key)
        return pickle.loads(raw.receive())

    assert read() == state[key]
    pairs = [(timed(lambda: state[key], count), timed(read, count)) for _ in range(40)]
    note(json.dumps([key, pairs]))
"""
_COUNTER = """
import pytest


@pytest.mark.plan_step
def counter(state):
    state["sum"] = state["ready"] = 0
"""
_INCREMENTS = f"""
import time

import pytest
from notes import note


def add(state, key):
    while True:
        value = state[key]
        if state.compare_and_swap(key, value, value + 1):
            return value + 1


@pytest.mark.plan("counter")
@pytest.mark.parametrize("worker", range({WORKERS}))
def test_increments(plan, worker):
    if add(plan.state, "ready") == {WORKERS}:
        plan.state["go"] = time.time()
    began = plan.state.wait_for("go")
    for _ in range({INCREMENTS}):
        add(plan.state, "sum")
    note(time.time() - began)
"""


def rows(_other: Path | None) -> Iterator[Row]:
    """Measure and yield the rows; nothing is compared with another checkout."""
    ratios = _reads()
    for key, what in SIZES.items():
        yield at_most(f"{what}: State / channel", "x", ratios[key], MOST)
    what = (
        f"{WORKERS} workers, each with {INCREMENTS} increments by `compare_and_swap`: last / first"
    )
    yield at_most(what, "x", [_spread()], MOST_SPREAD)


def _reads() -> dict[str, list[float]]:
    """Return the ratios of all runs, by key."""
    ratios: dict[str, list[float]] = {key: [] for key in SIZES}
    with Suite({"conftest.py": VALUES + _CHANNEL, "test_it.py": _READS}, *PLUGINS) as suite:
        for _ in range(REPEATS):
            suite.run("-n", "1")
            for key, pairs in map(json.loads, suite.history()):
                ours, plain = (statistics.median(times) for times in zip(*pairs, strict=True))
                ratios[key].append(ours / plain)
    return ratios


def _spread() -> float:
    """Return the slowest worker's time divided by the fastest worker's."""
    with Suite({"conftest.py": _COUNTER, "test_it.py": _INCREMENTS}, *PLUGINS) as suite:
        suite.run("-n", str(WORKERS))
        times = [float(line) for line in suite.history()]
    return max(times) / min(times)
