"""`--plan-limit` with workers, in a project without steps."""

from __future__ import annotations

import pytest

from tests.xdist.cluster import Cluster, outcomes


def test_the_limit_applies_without_any_step(cluster: Cluster) -> None:
    """The limit fails the test that hangs in a worker, and the exit status is 1."""
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
