"""SIGKILL of the controller, of a worker, or of both, while a step or a test of any stage runs."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.harness.scenario import Tally
from tests.xdist.cluster import Cluster, wait_until

STEPS = """
import time

def hold(name):
    note("at", name, os.getpid())
    while os.environ.get("HOLD") == name and not os.path.exists("go"):
        time.sleep(0.02)

pytest.hold = hold
if "PYTEST_XDIST_WORKER" in os.environ:
    note("worker", os.getpid())

def undo_app(): note("undo", "app")
def undo_upgraded(): note("undo", "upgraded")

@pytest.mark.plan_step(cleanup=undo_app, cleanup_when="attempted")
def app(ctx):
    note("step", "app")
    hold("app")

@pytest.mark.plan_step(after_tests=True, cleanup=undo_upgraded, cleanup_when="attempted")
def upgraded(app):
    note("step", "upgraded")
    hold("upgraded")
"""
TESTS = """
def test_v1(app): pytest.hold("v1")
def test_v1_more(app): pass
@pytest.mark.plan_alone
def test_v1_alone(app): pytest.hold("v1-alone")
def test_up(upgraded): pytest.hold("up")
def test_up_more(upgraded): pass
@pytest.mark.plan_alone
def test_up_alone(upgraded): pytest.hold("up-alone")
"""
MOMENTS = ("app", "v1", "v1-alone", "upgraded", "up", "up-alone")


def undone(calls: Sequence[str]) -> bool:
    """Return whether each step that has begun was undone, and no step more than once."""
    steps = Counter(call.split()[1] for call in calls if call.startswith("step"))
    undos = Counter(call.split()[1] for call in calls if call.startswith("undo"))
    return steps == undos and set(steps.values()) <= {1}


@pytest.mark.parametrize("victim", ["controller", "worker", "both"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_g7_a_kill_in_any_stage_leaves_nothing(
    own_temporary_folder: Path, tmp_path: Path, tally: Tally, victim: str, moment: str
) -> None:
    """If only a worker dies, the run goes on; otherwise the reaper undoes every step once."""
    cluster = Cluster(tmp_path)
    cluster.steps(STEPS)
    cluster.tests(TESTS)
    tally.runs += 1
    tally.kills += 1
    is_step = moment in ("app", "upgraded")
    with cluster.start("-n", "2", env={"HOLD": moment}) as live:
        held = wait_until(lambda: [c for c in cluster.calls if c.startswith(f"at {moment} ")])
        workers = [int(call.split()[1]) for call in cluster.calls if call.startswith("worker")]
        killed = workers[0] if is_step else int(held[0].split()[-1])
        assert killed in workers
        if victim != "controller":
            os.kill(killed, signal.SIGKILL)
        if victim != "worker":
            live.kill()
        (cluster.path / "go").touch()
        wait_until(lambda: undone(cluster.calls))  # the reaper may not be seen yet
        output = live.end().stdout.str()
    assert undone(cluster.calls), cluster.calls
    if victim == "worker":
        passed = 6 if is_step else 5
        assert f"{passed} passed" in output, output
        assert is_step or "1 failed" in output
