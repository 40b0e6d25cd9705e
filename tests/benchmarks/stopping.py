"""How long it takes until cleanup begins: after SIGINT to the controller, and after the limit.

Run it in the root of the repository: `python -m tests.benchmarks.stopping [RUNS]`.
"""

from __future__ import annotations

import signal
import statistics
import sys
import time
from collections.abc import Callable

from tests.faults.scenario import Run, Tally

RUNS = 5
LIMIT = 2.0  # seconds
_PLAIN = """\
import pytest
from tests.faults.fakes import note, at

@pytest.fixture(scope="session", autouse=True)
def environment():
    yield
    note("cleanup", "environment")
"""
_SLEEPS = """\
from tests.faults.fakes import at

def test_one(request):
    at("test.call")

def test_two():
    pass
"""


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


def measure(function: Callable[[Run], float], runs: int) -> list[float]:
    """Return the times of several runs, sorted."""
    times = []
    for _ in range(runs):
        run = Run(function.__name__, Tally())
        try:
            times.append(function(run))
        finally:
            run.close()
    return sorted(times)


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    rows = (
        ("SIGINT to the controller alone, -n 2, a test sleeps", "1 s", after_interrupt),
        ("  the same without pytest-plan (session fixture)", "-", after_interrupt_plain),
        ("the limit passes while a test sleeps, solo", "2.5 s", after_limit),
        ("  the same, -n 2", "2.5 s", after_limit_in_worker),
    )
    lines = [f"{'until cleanup begins':<54}{'median':>8}{'worst':>8}{'must':>7}"]
    for name, must, function in rows:
        times = measure(function, runs)
        middle = statistics.median(times)
        lines.append(f"{name:<54}{middle:>6.2f} s{times[-1]:>6.2f} s{must:>7}")
    sys.stdout.write("\n".join([*lines, f"{runs} runs each", ""]))


if __name__ == "__main__":
    main()
