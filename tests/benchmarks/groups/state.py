"""The State in workers.

These figures divide the time that pytest-xdist workers take to get or set values of the State by
the time that they take with a plain execnet channel to the controller, which also checks a version
under a lock and acknowledges each write. All workers get or set at the same time, and alternate
between both in batches. After each batch they wait until the journal has been written. Each figure
is the median of several runs. In the last row, 16 workers increment the same value.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.suite import Suite
from tests.benchmarks.table import Row, at_most

REPEATS = 5
WORKERS = (1, 2, 4)
MOST_GET = 1.25
SIZES = {"small": "a small value", "large": "1 MB"}
MOST_SET = {  # by who can read the values from the journal, and by size
    "nobody": {"small": 1.3, "large": 1.2},
    "cleanup": {"small": 1.4, "large": 1.5},
}
READERS = {
    "nobody": "which no cleanup can read",
    "cleanup": "with a `cleanup(state)`",
}
INCREMENTERS, INCREMENTS = 16, 300
MOST_SPREAD = 3.0

PLUGINS = ("xdist", "pytest_plan")
VALUES = """
import pytest

VALUES = {"small": {"host": "127.0.0.1", "port": 5432}, "large": b"x" * 1_000_000}


@pytest.mark.plan_step
def values(state):
    state["small"], state["large"] = VALUES["small"], VALUES["large"]
"""
_CLEANUP = """

def no_cleanup(state):
    pass


@pytest.mark.plan_step(cleanup=no_cleanup)
def reader():
    pass
"""
_CHANNEL = """
import pickle
import threading


class Raw:
    '''The controller's side of the plain channels.'''

    def __init__(self):
        self.lock = threading.Lock()
        self.data = {key: (1, pickle.dumps(value, 5)) for key, value in VALUES.items()}
        self.waiting = []
        self.workers = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node):
        self.workers += 1
        channel = node.gateway.newchannel()
        channel.setcallback(lambda request: getattr(self, request[0])(channel, *request[1:]))
        node.workerinput["raw"] = channel

    def get(self, channel, key):
        channel.send(self.data[key])

    def set(self, channel, key, expected, data):
        with self.lock:
            version = self.data[key][0] if key in self.data else 0
            if expected in (None, version):
                self.data[key] = version + 1, data
        channel.send(expected in (None, version))

    def together(self, channel):
        '''Answer all workers once all have asked.'''
        with self.lock:
            self.waiting.append(channel)
            if len(self.waiting) == self.workers:
                for one in self.waiting:
                    one.send(True)
                self.waiting.clear()


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Raw())
"""
_TESTS = """
import json
import pickle
import time

import pytest
from conftest import VALUES
from notes import note

COUNTS = {{"small": 200, "large": 20}}
BATCHES = 6
REST = 0.4  # longer than a value of the State may wait for the journal


class Raw:
    '''A State of a plain channel.'''

    def __init__(self, channel):
        self.channel = channel

    def __getitem__(self, key):
        self.channel.send(("get", key))
        return pickle.loads(self.channel.receive()[1])

    def __setitem__(self, key, value):
        self.channel.send(("set", key, None, pickle.dumps(value, 5)))
        assert self.channel.receive()


def get(state, size, worker):
    return state[size]


def set(state, size, worker):
    state[f"{{size}} {{worker}}"] = VALUES[size]


@pytest.mark.parametrize("worker", range({workers}))
def test_state(plan, request, worker):
    channel = request.config.workerinput["raw"]

    def timed(function, state, size):
        channel.send(("together",))
        channel.receive()
        began = time.perf_counter()
        for _ in range(COUNTS[size]):
            function(state, size, worker)
        took = time.perf_counter() - began
        if function is set:
            time.sleep(REST)
        return took

    for function in (get, set):
        for size in VALUES:
            pairs = [
                [timed(function, state, size) for state in (plan.state, Raw(channel))]
                for _ in range(BATCHES)
            ]
            ours, raw = zip(*pairs[1:])  # the first batches allocate memory
            note(json.dumps([function.__name__, size, sum(ours) / sum(raw)]))
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
@pytest.mark.parametrize("worker", range({INCREMENTERS}))
def test_increments(plan, worker):
    if add(plan.state, "ready") == {INCREMENTERS}:
        plan.state["go"] = time.time()
    began = plan.state.wait_for("go")
    for _ in range({INCREMENTS}):
        add(plan.state, "sum")
    note(time.time() - began)
"""


def rows(_other: Path | None) -> Iterator[Row]:
    """Measure and yield the rows; nothing is compared with another checkout."""
    for workers in WORKERS:
        ratios = {reader: _ratios(workers, reader) for reader in READERS}
        where = f"{workers} worker{'s' * (workers > 1)}: State / channel"
        for size, what in SIZES.items():
            samples = ratios["nobody"]["get", size]
            yield at_most(f"get {what}, {where}", "x", samples, MOST_GET)
        for reader, who in READERS.items():
            for size, what in SIZES.items():
                samples, most = ratios[reader]["set", size], MOST_SET[reader][size]
                yield at_most(f"set {what} {who}, {where}", "x", samples, most)
    what = (
        f"{INCREMENTERS} workers, each with {INCREMENTS} increments by `compare_and_swap`: "
        "last / first"
    )
    yield at_most(what, "x", [_spread()], MOST_SPREAD)


def _ratios(workers: int, reader: str) -> dict[tuple[str, str], list[float]]:
    """Return one ratio for each run, by function and size: the median of its workers."""
    ratios: dict[tuple[str, str], list[float]] = {}
    conftest = VALUES + (_CLEANUP if reader == "cleanup" else "") + _CHANNEL
    files = {"conftest.py": conftest, "test_it.py": _TESTS.format(workers=workers)}
    with Suite(files, *PLUGINS) as suite:
        for _ in range(REPEATS):
            suite.run("-n", str(workers))
            found: dict[tuple[str, str], list[float]] = {}
            for function, size, ratio in map(json.loads, suite.history()):
                found.setdefault((function, size), []).append(ratio)
            for case, each in found.items():
                ratios.setdefault(case, []).append(statistics.median(each))
    return ratios


def _spread() -> float:
    """Return the slowest worker's time divided by the fastest worker's."""
    with Suite({"conftest.py": _COUNTER, "test_it.py": _INCREMENTS}, *PLUGINS) as suite:
        suite.run("-n", str(INCREMENTERS))
        times = [float(line) for line in suite.history()]
    return max(times) / min(times)
