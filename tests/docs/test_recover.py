"""The page about crashes is correct: its example can be killed, and is then cleaned up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_plan.engine.journal.schema import FORMAT, TABLES
from tests.xdist.cluster import Cluster, wait_until

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "how-to" / "recover-after-a-crash.md").read_text()
REFERENCE = (DOCS / "reference" / "journal.md").read_text()


@pytest.fixture
def example(cluster: Cluster) -> Cluster:
    """The project with the example of the page."""
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        match = re.match(r"# (\S+\.py)\n", block)
        assert match is not None
        cluster.write(match[1], block)
    return cluster


def left(example: Cluster) -> list[str]:
    """Return the files that the steps have created and that still exist."""
    return [name for name in ("certificate.pem", "server.pid") if (example.path / name).exists()]


def test_the_example_passes(example: Cluster) -> None:
    """Without a crash, the example passes and leaves nothing behind."""
    assert example.apart("-n", "0").ret == 0
    assert left(example) == []


@pytest.mark.parametrize("reaper", ["true", "false"])
def test_the_example_is_cleaned_up_after_a_crash(example: Cluster, reaper: str) -> None:
    """The reaper, or else `pytest --plan-cleanup`, cleans up after a crash.

    Another `pytest --plan-cleanup` is not an error.
    """
    environments = example.path / ".pytest_plan" / "environments"
    option = f"plan_reaper={reaper}"
    with example.start("-n", "0", "-o", option, env={"CRASH": "1"}) as live:
        wait_until(lambda: not live.is_running())
        if reaper == "false":
            assert left(example) == ["certificate.pem", "server.pid"]
            assert example.apart("--plan-cleanup").ret == 0
        wait_until(lambda: not environments.exists())
        wait_until(lambda: not live.processes())
    assert left(example) == []
    assert example.apart("--plan-cleanup").ret == 0


def test_the_reference_names_every_table() -> None:
    """The reference describes the current format, and names every table of it."""
    assert f"This page describes format {FORMAT}." in REFERENCE
    section = REFERENCE.partition("## What it contains")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == TABLES.keys()
