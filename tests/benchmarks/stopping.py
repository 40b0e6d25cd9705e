"""How long it takes until cleanup begins: after SIGINT to the controller, and after the limit."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

from tests.benchmarks.measure import Row
from tests.faults.harness.scenario import Run, Tally

RUNS = 5
LIMIT = 2.0  # seconds
TARGET_INTERRUPT = 1.0
TARGET_LIMIT = 2.5
_PLAIN = """\
import pytest
from tests.faults.harness.fakes import note, at

@pytest.fixture(scope="session", autouse=True)
def environment():
    yield
    note("cleanup", "environment")
"""
_SLEEPS = """\
from tests.faults.harness.fakes import at

def test_one(request):
    at("test.call")

def test_two():
    pass
"""


def rows() -> Iterator[Row]:
    """Measure, and return the lines of the table."""
    yield Row(
        "SIGINT to the controller alone, -n 2, a test sleeps: until cleanup begins",
        "s",
        _times(after_interrupt),
        TARGET_INTERRUPT,
        judged="max",
    )
    what = "beside it: a session fixture, without pytest-plan"
    yield Row(what, "s", _times(after_interrupt_plain))
    what = "the limit passes while a test sleeps: until cleanup begins"
    yield Row(what, "s", _times(after_limit), TARGET_LIMIT, judged="max")
    yield Row("the same, -n 2", "s", _times(after_limit_in_worker), TARGET_LIMIT, judged="max")


def _wait(run: Run, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, run.output()
        time.sleep(0.005)


def after_interrupt(run: Run) -> float:
    """Return the seconds from SIGINT to the controller alone until cleanup begins."""
    run.start("-n", "2", faults={"test.call": "sleep"})
    _wait(run, run.reached("test.call"))
    run.signal(signal.SIGINT)
    _wait(run, run.ended)
    return run.time_of("cleanup") - run.moved


def after_interrupt_plain(run: Run) -> float:
    """Return the same for a session fixture and pytest-xdist, without pytest-plan."""
    run.write("conftest.py", _PLAIN)
    run.write("test_it.py", _SLEEPS)
    run.start("-n", "2", faults={"test.call": "sleep"}, argv=("-m", "pytest"))
    _wait(run, run.reached("test.call"))
    worker = next(line.pid for line in run.history if line.words == ("test.call",))
    run.signal(signal.SIGINT)
    _wait(run, run.ended)
    times = [line.time for line in run.history if line.what == "cleanup" and line.pid == worker]
    return min(times) - run.moved


def after_limit(run: Run) -> float:
    """Return the seconds from the passing of the limit until cleanup begins; a test sleeps."""
    run.start(f"--plan-limit={LIMIT}s", faults={"test.call": "sleep"})
    _wait(run, run.ended)
    return run.time_of("cleanup") - run.time_of("begin") - LIMIT


def after_limit_in_worker(run: Run) -> float:
    """Return the same for a test in one of two workers."""
    run.start(f"--plan-limit={LIMIT}s", "-n", "2", faults={"test.call": "sleep"})
    _wait(run, run.ended)
    return run.time_of("cleanup") - run.time_of("begin") - LIMIT


def _times(function: Callable[[Run], float]) -> list[float]:
    times = []
    for _ in range(RUNS):
        run = Run(function.__name__, Tally())
        try:
            times.append(function(run))
        finally:
            run.close()
    return times
