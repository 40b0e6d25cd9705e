"""How fast the State is in a worker: beside a bare round trip, and when 16 workers want one key."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator

from tests.benchmarks.measure import Row
from tests.benchmarks.suite import Suite

REPEATS = 5
TARGET_RATIO = 1.5
WORKERS = 16
INCREMENTS = 1_000
TARGET_SPREAD = 3.0
MICRO = 1e6

_VALUES = """
import pickle
import pytest

VALUES = {"small": {"host": "127.0.0.1", "port": 5432}, "large": b"x" * 1_000_000}


@pytest.mark.plan_step
def values(state):
    state["small"], state["large"] = VALUES["small"], VALUES["large"]


class Raw:
    '''The other side of the bare round trip: a pickle for a key.'''

    def __init__(self):
        self.channels = []
        self.data = {key: pickle.dumps(value, 5) for key, value in VALUES.items()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node):
        channel = node.gateway.newchannel()
        channel.setcallback(lambda key: channel.send(self.data[key]))
        self.channels.append(channel)
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


def timed(get, key, count):
    times = []
    for _ in range(count):
        began = time.perf_counter()
        get(key)
        times.append(time.perf_counter() - began)
    return times


@pytest.mark.plan("values")
@pytest.mark.parametrize(("key", "count"), [("small", 100), ("large", 10)])
def test_latency(plan, request, key, count):
    raw = request.config.workerinput["raw"]

    def round_trip(key):
        raw.send(key)
        return pickle.loads(raw.receive())

    assert round_trip(key) == plan.state[key]
    found = {"state": [], "raw": []}
    for _ in range(40):  # in turns: what slows the machine slows both
        found["state"] += timed(plan.state.__getitem__, key, count)
        found["raw"] += timed(round_trip, key, count)
    note(json.dumps({"key": key, **found}))
"""
_COUNTER = """
import pytest
from notes import note


@pytest.mark.plan_step
def counter(state):
    state["sum"] = 0
    state["ready"] = 0
    yield
    note(f"sum {state['sum']}")
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
    note(f"took {{time.time() - began}}")
"""


def rows() -> Iterator[Row]:
    """Measure, and return the lines of the table."""
    yield from _reads()
    yield from _increments()


def _reads() -> Iterator[Row]:
    suite = Suite(
        {"conftest.py": _VALUES, "test_reads.py": _READS}, "xdist", "pytest_plan"
    )  # fmt: skip
    medians: dict[str, list[tuple[float, float]]] = {"small": [], "large": []}
    for _ in range(REPEATS):
        suite.run("-n", "1")
        for found in map(json.loads, suite.history()):
            pair = statistics.median(found["state"]), statistics.median(found["raw"])
            medians[found["key"]].append(pair)
    suite.close()
    for key, what in (("small", "a small value"), ("large", "1 MB")):
        ours, raw = zip(*medians[key], strict=True)
        ratios = [one / other for one, other in medians[key]]
        yield Row(f"plan.state[key] in a worker, {what}", "µs", [one * MICRO for one in ours])
        beside = "beside it: a round trip of execnet, and pickle"
        yield Row(beside, "µs", [one * MICRO for one in raw])
        yield Row("the one / the other", "x", ratios, TARGET_RATIO)


def _increments() -> Iterator[Row]:
    suite = Suite(
        {"conftest.py": _COUNTER, "test_increments.py": _INCREMENTS}, "xdist", "pytest_plan"
    )
    suite.run("-n", str(WORKERS))
    history = [line.split() for line in suite.history()]
    suite.close()
    if ["sum", str(WORKERS * INCREMENTS)] not in history:
        raise RuntimeError(f"an increment is lost: {history}")
    took = sorted(float(value) for what, value in history if what == "took")
    what = (
        f"{WORKERS} workers, {INCREMENTS:,} compare_and_swap increments each: sum exact; each took"
    )
    yield Row(what, "s", took)
    yield Row("the last / the first", "x", [took[-1] / took[0]], TARGET_SPREAD)
