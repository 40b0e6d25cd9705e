"""--plan-limit with workers, where there is no step to wait for."""

from __future__ import annotations

import pytest

from tests.xdist.cluster import Cluster, outcomes


def test_it_is_the_sessions_limit_without_any_step(cluster: Cluster) -> None:
    """One deadline ends the test that hangs in a worker; the status is 1."""
    cluster.tests("""
    import time

    def test_slow():
        while True:
            time.sleep(0.01)
    """)
    result = cluster.two("--plan-limit=1s")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(result) == {"failed": 1}
    result.stdout.fnmatch_lines(["E *Failed: the plan's limit of 1.00s has passed"])
