"""Pages whose examples form a test suite, which passes unchanged, solo and with workers."""

from __future__ import annotations

import os
from pathlib import Path

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
# Page -> the library that running its examples requires.
WITHOUT_DOCKER = {
    "how-to/with-pytest-docker": "pytest_docker",
    "how-to/with-testcontainers": "testcontainers",
}
# Page -> the reason why its examples are not run.
NOT_RUN = {"how-to/run-it-in-ci": "it shows settings and no test"}
# A fake `docker` that logs its arguments and reports one port.
DOCKER = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in *" port "*) echo "0.0.0.0:49153";; esac
"""


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


@pytest.fixture
def docker(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of the fake `docker`, which is first in PATH."""
    calls = cluster.path / "asked.txt"
    program = cluster.write("bin/docker", DOCKER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(calls))
    return calls


@pytest.mark.parametrize("page", WITHOUT_DOCKER)
def test_plan_with_docker_is_sound(cluster: Cluster, page: str) -> None:
    """The page's imports exist and do not warn, and its test needs its steps."""
    pytest.importorskip(WITHOUT_DOCKER[page], reason=f"{WITHOUT_DOCKER[page]} is not installed")
    for name, text in examples(page).items():
        cluster.write(name, text)
    result = cluster.apart("--plan-show", "-p", "no:docker")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*no dependencies", "1 test needs *", "nothing was run"])


@pytest.mark.parametrize("workers", [0, 2])
def test_pytest_docker_reaches_the_stack(cluster: Cluster, docker: Path, workers: int) -> None:
    """With any number of workers, `up` and `down` run once, for the same project."""
    pytest.importorskip("pytest_docker", reason="pytest_docker is not installed")
    for name, text in examples("how-to/with-pytest-docker").items():
        cluster.write(name, text)
    result = cluster.apart("-n", str(workers), "-p", "pytest_docker")
    assert outcomes(result) == {"passed": 1}
    asked = [line.split() for line in docker.read_text().splitlines()]
    assert [words[5] for words in asked] == ["up", "port", "down"]
    assert len({words[4].strip('"') for words in asked}) == 1


def test_every_page_with_examples_is_run() -> None:
    """Every page with examples is tested by its commands or as a suite, or is listed here."""
    with_examples = {page for page in pages() if examples(page)}
    assert with_examples - {*SHOWN, *SUITES} == {*NOT_RUN, *WITHOUT_DOCKER}
