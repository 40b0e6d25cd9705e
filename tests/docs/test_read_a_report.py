"""The page about reports: its example fails as intended, and every report shows the failure."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import examples
from tests.xdist.cluster import Cluster, outcomes

PAGE = "how-to/read-a-report"
ENDINGS = (".md", ".json", ".trace.json", ".mmd")


@pytest.fixture
def suite(cluster: Cluster) -> Cluster:
    """The project with the files of the page."""
    for name, text in examples(PAGE).items():
        cluster.write(name, text)
    return cluster


@pytest.mark.parametrize("workers", [0, 2])
def test_reports_tell_what_the_page_says(suite: Cluster, workers: int) -> None:
    """Solo and with workers, all reports are written and show the outcome of each step."""
    reports = [f"--plan-report=plan{ending}" for ending in ENDINGS]
    result = suite.apart(
        "-n", str(workers), "--plan-continue-on-error", "--junitxml=junit.xml", *reports
    )
    assert outcomes(result) == {"passed": 1, "blocked": 1, "errors": 1}
    rows = re.findall(r"^\| \**(\w+)\** \| (\w+) ", (suite.path / "plan.md").read_text(), re.M)
    assert rows[1:] == [("server", "succeeded"), ("accounts", "succeeded"), ("search", "failed")]
    assert 'name="plan.step.search"' in (suite.path / "junit.xml").read_text()
    assert all((suite.path / f"plan{ending}").exists() for ending in ENDINGS)
