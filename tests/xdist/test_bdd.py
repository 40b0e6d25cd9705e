"""Scenarios of pytest-bdd with workers."""

from __future__ import annotations

import pytest

from tests.plugin.test_bdd import CASES, RUN, write
from tests.xdist.cluster import Cluster, outcomes


@pytest.mark.parametrize(
    "name", ["given in a background", "outline whose examples take different steps"]
)
def test_scenario_needs_the_same_with_workers(cluster: Cluster, name: str) -> None:
    """With workers the same steps run, once."""
    write(cluster, CASES[name])
    result = cluster.two(*RUN)
    assert outcomes(result) == {"passed": CASES[name].passes}
    assert sorted(cluster.calls) == sorted(CASES[name].needs)
