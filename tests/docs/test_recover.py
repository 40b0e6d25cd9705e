"""The example of the page about crashes is killed, and everything is cleaned up as described."""

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
    """A project with the example of the page."""
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        match = re.match(r"# (\S+\.py)\n", block)
        assert match is not None
        cluster.write(match[1], block)
    return cluster


def left(example: Cluster) -> list[str]:
    """Return what the steps have created and nothing has removed."""
    return [name for name in ("certificate.pem", "server.pid") if (example.path / name).exists()]


def test_the_example_passes(example: Cluster) -> None:
    """The example passes and leaves nothing behind."""
    assert example.apart("-n", "0").ret == 0
    assert left(example) == []


@pytest.mark.parametrize("reaper", ["true", "false"])
def test_the_example_is_cleaned_up_after_a_crash(example: Cluster, reaper: str) -> None:
    """The reaper or `pytest --plan-cleanup` cleans up, and another cleanup is no error."""
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
    """The reference describes the current format and names all of its tables."""
    assert f"This page describes format {FORMAT}." in REFERENCE
    section = REFERENCE.partition("## What it contains")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == TABLES.keys()
