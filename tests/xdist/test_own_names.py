"""With workers: projects that use the names of the plugin for marks and fixtures of their own."""

from __future__ import annotations

import pytest

from tests.plugin.test_own_names import OWN_FIXTURE, REGISTERED, TESTS
from tests.xdist.cluster import Cluster, outcomes


def unchanged(lines: list[str]) -> list[str]:
    """Return the lines that the plugin may not change: those without versions and times."""
    return [
        line
        for line in lines
        if not line.startswith(("platform", "plugins:", "rootdir:", "created:"))
        and "s ==" not in line
    ]


def test_own_mark_and_fixture_work_with_workers(cluster: Cluster) -> None:
    """A run with workers is the same as one without the plugin."""
    cluster.write("conftest.py", OWN_FIXTURE + REGISTERED)
    cluster.tests(TESTS)
    result = cluster.two()
    assert result.ret == 0
    assert outcomes(result) == {"passed": 5}
    bare = cluster.bare("-p", "xdist", "-n", "2")
    assert sorted(unchanged(result.outlines)) == sorted(unchanged(bare.outlines))
    assert result.errlines == bare.errlines == []


@pytest.mark.parametrize("mark", ["'gold'", "3", "tier='gold'"])
def test_own_mark_is_refused_with_workers(cluster: Cluster, mark: str) -> None:
    """The message is one line, and it names the test."""
    cluster.steps("@pytest.mark.plan_step\ndef db(): note('db')")
    cluster.tests(f"@pytest.mark.plan({mark})\ndef test_it(): note('test')")
    result = cluster.two()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line for line in result.errlines if line]
    assert len(errors) == 1
    assert errors[0].startswith("ERROR: test_it.py::test_it: @pytest.mark.plan ")
    assert cluster.calls == []
