"""The how-to pages do what they say: their examples are suites that pass, solo and with workers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.xdist.cluster import Cluster, outcomes

PAGES = Path(__file__).parent.parent.parent / "docs" / "how-to"
# Page -> how many of its tests pass; what it shows as "before" is not run.
OURS = {
    "share-an-environment-with-xdist": 28,
    "migrate-from-filelock-and-shared-session-scope": 3,
}


def _blocks(page: str) -> dict[str, str]:
    """Return the examples of a page by the file name in their first line."""
    text = (PAGES / f"{page}.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    named = {match[1]: block for block in blocks if (match := re.match(r"# (\S+\.py)\n", block))}
    assert len(named) == len(blocks), "an example does not name its file in its first line"
    return named


@pytest.fixture(params=OURS)
def page(request: pytest.FixtureRequest) -> str:
    """The name of a page."""
    return str(request.param)


@pytest.mark.parametrize("workers", [0, 2])
def test_examples_pass(cluster: Cluster, page: str, workers: int) -> None:
    """The page's conftests and tests, as they stand, pass and warn of nothing."""
    plugins = []
    for name, block in _blocks(page).items():
        if name.startswith("before"):
            continue
        cluster.write(name, block)
        if "/" not in name and not name.startswith(("test_", "conftest")):
            plugins += ["-p", name.removesuffix(".py")]
    result = cluster.apart("-n", str(workers), *plugins)
    assert outcomes(result) == {"passed": OURS[page]}
    assert result.ret == 0


def test_every_example_compiles(page: str) -> None:
    """Those that are not run as well: they need what may not be installed."""
    for name, block in _blocks(page).items():
        compile(block, name, "exec")


@pytest.mark.parametrize("workers", [0, 2])
def test_reports_tell_what_the_page_says(cluster: Cluster, workers: int) -> None:
    """The page's example fails as it is meant to; its reports are written and tell of it."""
    for name, block in _blocks("read-a-report").items():
        cluster.write(name, block)
    endings = (".md", ".json", ".trace.json", ".mmd")
    reports = [f"--plan-report=plan{ending}" for ending in endings]
    result = cluster.apart(
        "-n", str(workers), "--plan-continue-on-error", "--junitxml=junit.xml", *reports
    )
    assert outcomes(result) == {"passed": 1, "blocked": 1, "errors": 1}
    rows = re.findall(r"^\| \**(\w+)\** \| (\w+) ", (cluster.path / "plan.md").read_text(), re.M)
    assert rows[1:] == [("server", "succeeded"), ("accounts", "succeeded"), ("search", "failed")]
    assert 'name="plan.step.search"' in (cluster.path / "junit.xml").read_text()
    assert all((cluster.path / f"plan{ending}").exists() for ending in endings)


def test_plan_is_shown_as_on_the_page(cluster: Cluster) -> None:
    """The tree that the page shows is the one that is printed."""
    for name, block in _blocks("read-a-report").items():
        cluster.write(name, block)
    result = cluster.apart("--plan-show")
    shown = (PAGES / "read-a-report.md").read_text().partition("$ pytest --plan-show\n")[2]
    lines = shown.partition("```")[0].splitlines()
    start = result.outlines.index(lines[0])
    assert result.outlines[start : start + len(lines)] == lines


def test_filelock_recipe_runs(cluster: Cluster) -> None:
    """What the migration page starts from is a recipe that works."""
    blocks = _blocks("migrate-from-filelock-and-shared-session-scope")
    cluster.write("conftest.py", blocks["before/conftest.py"])
    cluster.write("test_server.py", "def test_url(server): assert server['url']")
    assert outcomes(cluster.two()) == {"passed": 1}


def test_pages_name_no_file_that_is_missing() -> None:
    """Each page of the table above exists, and there is no page without a test."""
    pages = {path.stem for path in PAGES.glob("*.md")}
    assert set(OURS) <= pages
