"""Random plans, fixtures, modes and crashes: what every run with `plan_overlap` keeps to.

`OVERLAP_EXAMPLES=300 pytest tests/xdist/test_random_overlap.py` tries more of them.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.xdist.cluster import Cluster
from tests.xdist.conftest import MakeCluster
from tests.xdist.stages import Drawn, check_run
from tests.xdist.test_random_stages import projects

EXAMPLES = int(os.environ.get("OVERLAP_EXAMPLES", "2"))
_numbers = iter(range(1_000_000))


@st.composite
def overlaps(draw: Any) -> tuple[Drawn, str, int]:
    """Return a project whose steps take a while, a mode of pytest-xdist, and how many workers."""
    drawn, mode, workers = draw(projects())
    seconds = st.sampled_from([0.0, 0.1, 0.3, 0.8, 2.0])
    steps = tuple(step._replace(seconds=draw(seconds)) for step in drawn.steps)
    tests = tuple(test._replace(shares=draw(st.booleans())) for test in drawn.tests)
    return Drawn(steps, tests), mode, workers


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
@given(overlaps())
def test_no_test_begins_before_its_steps_have_succeeded(
    make_cluster: MakeCluster, project: tuple[Drawn, str, int]
) -> None:
    """Each test runs once, and stages, tests that run alone, and cleanup are as without overlap.

    With `loadfile`, the fixture of a module is set up once in each part of the tests.
    """
    drawn, mode, workers = project
    cluster: Cluster = make_cluster(f"overlap-{next(_numbers)}")
    drawn.write(cluster, autouse=False)
    check_run(cluster, drawn, mode, workers, "--plan-overlap")
    if mode == "loadfile":
        parts = {
            (test.module, drawn.stage(test), test.alone) for test in drawn.tests if test.shares
        }
        set_up = [call for call in cluster.calls if call.startswith("set-up")]
        assert len(set_up) <= len(parts)
