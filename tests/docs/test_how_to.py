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


def _compiles(name: str, block: str) -> bool:
    try:
        compile(block, name, "exec")
    except SyntaxError:
        return False
    return True


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
    broken = [name for name, block in _blocks(page).items() if not _compiles(name, block)]
    assert broken == []


def test_filelock_recipe_runs(cluster: Cluster) -> None:
    """What the migration page starts from is a recipe that works."""
    blocks = _blocks("migrate-from-filelock-and-shared-session-scope")
    cluster.write("conftest.py", blocks["before/conftest.py"])
    cluster.write("test_server.py", "def test_url(server): assert server['url']")
    assert outcomes(cluster.two()) == {"passed": 1}


def test_pages_name_no_file_that_is_missing() -> None:
    """Each page of the table above exists."""
    pages = {path.stem for path in PAGES.glob("*.md")}
    assert set(OURS) <= pages
