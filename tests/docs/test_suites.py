"""Pages whose examples form a test suite, which passes unchanged, solo and with workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.docs.pages import examples, pages
from tests.docs.test_pages import SHOWN
from tests.plugin.project import Project
from tests.xdist.cluster import Cluster, forget_folders, outcomes

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
# A fake `docker` that logs its arguments, keeps a file for each project and reports one port.
DOCKER = """#!/bin/sh
echo "$@" >> "$CALLS"
project="$CALLS-$5"
case "$*" in
    *" up "*) echo container > "$project"; [ -z "$FAILS" ] || exit 1;;
    *" ps "*) cat "$project";;
    *" port "*) echo "0.0.0.0:49153";;
    *" down "*) rm "$project";;
esac
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


def fake_docker(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the fake `docker` first in PATH."""
    program = project.write("bin/docker", DOCKER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(project.path / "asked.txt"))


def compose_projects(project: Project) -> dict[str, list[str]]:
    """Return what the fake `docker compose` was told to do with each project, in order."""
    done: dict[str, list[str]] = {}
    for line in (project.path / "asked.txt").read_text().splitlines():
        words = line.replace('"', "").split()
        done.setdefault(words[4], []).append(words[5])
    return done


@pytest.mark.parametrize("page", WITHOUT_DOCKER)
def test_plan_with_docker_is_sound(cluster: Cluster, page: str) -> None:
    """The page's imports exist and do not warn, and its test needs its steps."""
    pytest.importorskip(WITHOUT_DOCKER[page], reason=f"{WITHOUT_DOCKER[page]} is not installed")
    for name, text in examples(page).items():
        cluster.write(name, text)
    result = cluster.apart("--plan-show", "-p", "no:docker")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*no dependencies", "1 test needs *", "nothing was run"])


@pytest.fixture
def stack(project: Project, own_temporary_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project of the page about pytest-docker, with the fake `docker`."""
    pytest.importorskip("pytest_docker", reason="pytest_docker is not installed")
    for name, text in examples("how-to/with-pytest-docker").items():
        project.write(name, text)
    fake_docker(project, monkeypatch)
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_docker,xdist.plugin")
    return project


@pytest.mark.parametrize("workers", ["0", "2"])
def test_pytest_docker_reaches_the_stack(stack: Project, workers: str) -> None:
    """With any number of workers, `up` and `down` run once, for the same project."""
    assert outcomes(stack.run_apart("-n", workers)) == {"passed": 1}
    assert list(compose_projects(stack).values()) == [["up", "port", "down"]]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_kept_stack_is_found_by_later_processes(stack: Project, workers: str) -> None:
    """Later runs reuse the same project, and `--plan-cleanup` takes it down."""
    for option in ("--plan-keep=always", "--plan-reuse"):
        result = stack.run_apart("-n", workers, option)
        assert outcomes(result) == {"passed": 1}
    assert stack.run_apart("--plan-cleanup").ret == 0
    assert list(compose_projects(stack).values()) == [["up", "port", "ps", "port", "down"]]


def test_stack_without_containers_is_rebuilt(stack: Project) -> None:
    """A kept project whose containers are gone is replaced by another project."""
    assert stack.run_apart("--plan-keep=always").ret == 0
    for file in stack.path.glob("asked.txt-*"):
        file.write_text("")
    assert outcomes(stack.run_apart("--plan-reuse")) == {"passed": 1}
    assert stack.run_apart("--plan-cleanup").ret == 0
    first, second = compose_projects(stack).values()
    assert first == ["up", "port", "ps", "down"]
    assert second == ["up", "port", "down"]


def test_stack_of_a_killed_run_is_taken_down(stack: Project) -> None:
    """After SIGKILL, `--plan-cleanup` takes down the project of the killed run."""
    stack.write("test_web.py", "import os\ndef test_web(stack): os.kill(os.getpid(), 9)")
    assert stack.run_apart("-o", "plan_reaper=false").ret == -signal.SIGKILL
    assert list(compose_projects(stack).values()) == [["up"]]
    assert stack.run_apart("--plan-cleanup").ret == 0
    assert list(compose_projects(stack).values()) == [["up", "down"]]
    forget_folders()


def test_stack_that_fails_is_taken_down(stack: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """If `up` fails, the retry uses the same project, which is taken down at the end."""
    monkeypatch.setenv("FAILS", "1")
    assert outcomes(stack.run_apart()) == {"errors": 1, "blocked": 1}
    assert list(compose_projects(stack).values()) == [["up", "up", "down"]]


def test_every_page_with_examples_is_run() -> None:
    """Every page with examples is tested by its commands or as a suite, or is listed here."""
    with_examples = {page for page in pages() if examples(page)}
    assert with_examples - {*SHOWN, *SUITES} == {*NOT_RUN, *WITHOUT_DOCKER}
