"""Random plans, marks, modes and crashes: what every run with stages keeps to.

`STAGES_EXAMPLES=300 pytest tests/xdist/test_random_stages.py` tries more of them.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.xdist.cluster import Cluster
from tests.xdist.conftest import MakeCluster
from tests.xdist.stages import Drawn, DrawnStep, DrawnTest, check_run, violations

EXAMPLES = int(os.environ.get("STAGES_EXAMPLES", "3"))
# pytest-xdist itself hangs if a worker dies with the others.
MODES_WITH_CRASHES = ("load", "worksteal", "each")
MODES = (*MODES_WITH_CRASHES, "loadscope", "loadfile", "loadgroup")
_numbers = iter(range(1_000_000))


@st.composite
def plans(draw: Any) -> tuple[DrawnStep, ...]:
    """Return steps, of which those that wait for tests wait for one another."""
    steps: list[DrawnStep] = []
    last_waiting: tuple[str, ...] = ()
    for number in range(draw(st.integers(1, 5))):
        names = [step.name for step in steps]
        needs = tuple(draw(st.lists(st.sampled_from(names), unique=True))) if names else ()
        after = bool(steps) and draw(st.booleans())
        if after:
            needs = tuple(dict.fromkeys((*needs, *last_waiting)))
        has_workers = any(step.per == "worker" for step in steps if step.name in needs)
        per = "worker" if has_workers or draw(st.integers(0, 3)) == 0 else "run"
        steps.append(DrawnStep(f"s{number}", needs, after, per))
        last_waiting = (f"s{number}",) if after else last_waiting
    return tuple(steps)


@st.composite
def projects(draw: Any) -> tuple[Drawn, str, int]:
    """Return a project, a mode of pytest-xdist, and the number of workers."""
    steps = draw(plans())
    mode = draw(st.sampled_from(MODES))
    names = st.sampled_from([step.name for step in steps])
    tests = []
    for number in range(draw(st.integers(1, 14))):
        needs = tuple(draw(st.lists(names, max_size=2, unique=True)))
        alone, dies, fails = (draw(st.integers(0, 9)) < odds for odds in (2, 1, 1))
        dies = dies and mode in MODES_WITH_CRASHES
        module = draw(st.integers(0, 2))
        tests.append(DrawnTest(f"test_{number}", needs, alone, module, dies, fails and not dies))
    return Drawn(steps, tuple(tests)), mode, draw(st.integers(1, 4))


def test_the_checker_finds_what_is_broken() -> None:
    """Each promise has a history that breaks it, and a sound history breaks none."""
    drawn = Drawn(
        (DrawnStep("s0", (), after=False), DrawnStep("s1", ("s0",), after=True)),
        (
            DrawnTest("test_0", ("s0",)),
            DrawnTest("test_1", ("s0",), alone=True),
            DrawnTest("test_2", ("s1",)),
        ),
    )
    first = ["step s0", "begin test_0", "end test_0", "begin test_1", "end test_1"]
    second = ["step s1", "begin test_2", "end test_2"]
    undo = ["undo s1", "undo s0"]
    assert violations(drawn, [*first, *second, *undo]) == []
    broken = {
        "step s1 began before test_1 ended": [
            *first[:3],
            "step s1",
            *first[3:],
            *second[1:],
            *undo,
        ],
        "test_2 began before test_1 ended": [
            *first[:4],
            *second[:2],
            "end test_1",
            "end test_2",
            *undo,
        ],
        "test_1 overlaps test_0": [
            *first[:2],
            "begin test_1",
            "end test_0",
            "end test_1",
            *second,
            *undo,
        ],
        "test_2 began without s1": [*first, *second[1:], "undo s0"],
        "test_0 ran 2 times": [*first[:3], *first[1:], *second, *undo],
        "test_2 ran 0 times": [*first, "step s1", *undo],
        "step s0 was not provisioned and undone exactly once": [*first, *second, "undo s1"],
    }
    for promise, calls in broken.items():
        assert promise in violations(drawn, calls), promise


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
@given(projects())
def test_every_run_keeps_the_order_of_stages(
    make_cluster: MakeCluster, project: tuple[Drawn, str, int]
) -> None:
    """No test or step of a later stage begins too early, and each test runs once.

    Tests that run alone overlap nothing, each instance of a step is provisioned and undone once,
    and tests get the values for their worker.
    """
    drawn, mode, workers = project
    cluster: Cluster = make_cluster(f"random-{next(_numbers)}")
    drawn.write(cluster)
    check_run(cluster, drawn, mode, workers)
