"""pytest-testmon with workers: steps run in the controller, and tests in workers."""

from __future__ import annotations

from tests.plugin.test_testmon import ALL, CHANGES, RUN, change, write
from tests.xdist.cluster import Cluster, verdicts


def test_change_selects_the_tests_that_need_the_step(cluster: Cluster) -> None:
    """Exactly the tests run again that need a step that has run the changed function."""
    write(cluster)
    assert verdicts(cluster.two(*RUN)).keys() == ALL
    for changed in list(CHANGES)[:2]:
        change(cluster, *changed)
        assert verdicts(cluster.two(*RUN)).keys() == CHANGES[changed]
    assert verdicts(cluster.two(*RUN)) == {}
