"""Pages whose examples form a test suite, which passes unchanged, solo and with workers."""

from __future__ import annotations

import pytest

from tests.docs.pages import examples, pages
from tests.docs.test_pages import SHOWN
from tests.xdist.cluster import Cluster, outcomes

# Page -> the number of tests that pass; files that the page shows as "before" are not run.
SUITES = {
    "index": 1,
    "reference/hooks": 1,
    "how-to/migrate-from-filelock-and-shared-session-scope": 3,
    "how-to/share-an-environment-with-xdist": 28,
}
# Pages whose examples test_coming_from.py and test_containers.py run.
WITH_ENGINES = {
    "how-to/coming-from-docker-compose",
    "how-to/coming-from-pytest-docker",
    "how-to/coming-from-testcontainers",
    "how-to/containers",
}
# Page -> the reason why its examples are not run.
NOT_RUN = {
    "how-to/run-it-in-ci": "it shows settings and no test",
    "how-to/share-an-environment-between-terminals": "test_sharing_pages.py runs them",
    "how-to/use-an-existing-database": "test_existing_database.py runs them",
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("page", SUITES)
def test_examples_pass(cluster: Cluster, page: str, workers: int) -> None:
    """The page's conftests and tests pass unchanged, without warnings."""
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
    """The recipe from which the migration page starts works."""
    files = examples("how-to/migrate-from-filelock-and-shared-session-scope")
    cluster.write("conftest.py", files["before/conftest.py"])
    cluster.write("test_server.py", "def test_url(server): assert server['url']")
    assert outcomes(cluster.two()) == {"passed": 1}


def test_every_page_with_examples_is_run() -> None:
    """Every page with examples is tested by its commands or as a suite, or is listed here."""
    with_examples = {page for page in pages() if examples(page)}
    assert with_examples - {*SHOWN, *SUITES} == {*NOT_RUN, *WITH_ENGINES}
