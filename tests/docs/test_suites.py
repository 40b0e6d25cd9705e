"""Pages whose examples are one suite: it passes as it stands, solo and with workers."""

from __future__ import annotations

import pytest

from tests.docs.pages import examples, pages
from tests.docs.test_pages import SHOWN
from tests.xdist.cluster import Cluster, outcomes

# Page -> how many of its tests pass; what it shows as "before" is not run.
SUITES = {
    "index": 1,
    "reference/hooks": 1,
    "how-to/migrate-from-filelock-and-shared-session-scope": 3,
    "how-to/share-an-environment-with-xdist": 28,
}
# Page -> why its examples are only compiled.
NOT_RUN = {"how-to/bound-the-time": "it shows steps and no test"}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("page", SUITES)
def test_examples_pass(cluster: Cluster, page: str, workers: int) -> None:
    """The page's conftests and tests, as they stand, pass and warn of nothing."""
    plugins = []
    for name, text in examples(page).items():
        if name.startswith("before"):
            continue
        cluster.write(name, text)
        if "/" not in name and not name.startswith(("test_", "conftest")):
            plugins += ["-p", name.removesuffix(".py")]
    result = cluster.apart("-n", str(workers), *plugins)
    assert outcomes(result) == {"passed": SUITES[page]}
    assert result.ret == 0


def test_filelock_recipe_runs(cluster: Cluster) -> None:
    """What the migration page starts from is a recipe that works."""
    files = examples("how-to/migrate-from-filelock-and-shared-session-scope")
    cluster.write("conftest.py", files["before/conftest.py"])
    cluster.write("test_server.py", "def test_url(server): assert server['url']")
    assert outcomes(cluster.two()) == {"passed": 1}


def test_every_page_with_examples_is_run() -> None:
    """By the test of its commands, or as a suite, or there is a reason not to."""
    with_examples = {page for page in pages() if examples(page)}
    assert with_examples - {*SHOWN, *SUITES} == set(NOT_RUN)
