"""Pages for users of other tools: both versions pass, and the new one does what the page says."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import examples
from tests.images import POSTGRES, REDIS, require_images
from tests.plugin.project import Project
from tests.steps.containers.engines import address_of, client_of
from tests.xdist.cluster import outcomes, wait_until

# Writes the container that publishes the port of a URL to `found.txt`.
FIND = """
import os
from pathlib import Path
from urllib.parse import urlsplit
import docker

def test_find({step}):
    client = docker.from_env()
    port = str(urlsplit({step}).port)
    (found,) = [
        one.id
        for one in client.containers.list()
        if port in [place["HostPort"] for places in one.ports.values() for place in places or ()]
    ]
    client.close()
    Path({file!r}).write_text(found)
"""
KILL = "    os.kill(os.getpid(), 9)\n"
# pytest-docker runs `docker compose`, which has another name and other options in version 1.
VERSION_1 = """
@pytest.fixture(scope="session")
def docker_compose_command():
    return "docker-compose"

@pytest.fixture(scope="session")
def docker_setup():
    return "up --build --detach"
"""


@dataclass(frozen=True, slots=True)
class Example:
    """A step with a container, and a test that uses it.

    Attributes:
        page: the page.
        folder: the folder of the files on the page.
        step: the step, whose value is a URL.
        image: the image that it uses.
        needs: the modules that the files import.
    """

    page: str
    folder: str
    step: str
    image: str
    needs: tuple[str, ...]


EXAMPLES = {
    "container": Example(
        "how-to/coming-from-testcontainers", "", "redis", REDIS, ("redis", "testcontainers")
    ),
    "module": Example(
        "how-to/coming-from-testcontainers", "database", "postgres", POSTGRES,
        ("psycopg", "testcontainers"),
    ),
    "pytest-docker": Example(
        "how-to/coming-from-pytest-docker", "tests", "redis", REDIS, ("redis",)
    ),
    "compose": Example("how-to/coming-from-docker-compose", "", "db", POSTGRES, ("psycopg",)),
}  # fmt: skip


class Engine:
    """Docker, and the container that a run of a project has used.

    Args:
        project: the project.
        client: a client of Docker.
    """

    def __init__(self, project: Project, client: Any) -> None:
        self.client = client
        self.file = project.path / "found.txt"

    @property
    def found(self) -> str:
        """The id of the container."""
        return self.file.read_text()

    def has(self, container: str) -> bool:
        """Return whether a container exists."""
        return bool(self.client.api.containers(all=True, filters={"id": container}))


@pytest.fixture
def engine(
    project: Project, own_temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """Docker, which has the images."""
    address = address_of("docker")
    require_images(address, REDIS, POSTGRES)
    monkeypatch.setenv("DOCKER_HOST", address)
    monkeypatch.setenv("PYTEST_PLUGINS", "xdist.plugin")
    with client_of(address) as client:
        yield Engine(project, client)


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest, project: Project, engine: Engine) -> Example:
    """An example, whose files and a test that finds its container are in the project."""
    chosen = EXAMPLES[request.param]
    write(project, chosen)
    find = FIND.format(step=chosen.step, file=str(engine.file))
    project.write(str(Path(chosen.folder, "test_find.py")), find)
    return chosen


def write(project: Project, example: Example) -> None:
    """Write the files of an example that are in its folder; skip the test without a module."""
    for name in example.needs:
        pytest.importorskip(name, reason=f"{name} is not installed")
    for name, text in examples(example.page).items():
        if Path(name).parent == Path(example.folder):
            project.write(name, text)


def test_session_fixture_passes(project: Project) -> None:
    """The fixture from which the page starts works."""
    files = examples("how-to/coming-from-session-fixtures")
    project.write("conftest.py", files["before/conftest.py"])
    project.write("test_site.py", files["test_site.py"])
    assert outcomes(project.run_apart()) == {"passed": 1}


@pytest.mark.engines
@pytest.mark.parametrize("workers", ["0", "2"])
def test_example_passes(project: Project, engine: Engine, example: Example, workers: str) -> None:
    """The example passes with and without workers, and leaves no container."""
    result = project.run_apart("-n", workers)
    assert outcomes(result) == {"passed": 2}
    assert result.ret == 0
    assert not engine.has(engine.found)


@pytest.mark.engines
def test_container_of_a_killed_run_is_removed(
    project: Project, engine: Engine, example: Example
) -> None:
    """The container is removed soon after pytest was killed with SIGKILL."""
    file = project.path / example.folder / "test_find.py"
    file.write_text(file.read_text() + KILL)
    assert project.run_apart("-n0", str(file)).ret == -signal.SIGKILL
    wait_until(lambda: not engine.has(engine.found))


@pytest.mark.engines
def test_container_is_kept_and_reused(project: Project, engine: Engine, example: Example) -> None:
    """The next run uses the same container, and another one if that is gone."""
    assert project.run_apart("--plan-keep", "always").ret == 0
    first = engine.found
    assert outcomes(project.run_apart("--plan-reuse")) == {"passed": 2}
    assert engine.found == first
    engine.client.api.remove_container(first, force=True)
    assert outcomes(project.run_apart("--plan-reuse")) == {"passed": 2}
    assert engine.found != first
    assert project.run_apart("--plan-cleanup").ret == 0
    assert not engine.has(engine.found)


@pytest.mark.engines
def test_testcontainers_passes(
    project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture with testcontainers from which the page starts works."""
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")  # there is no such image
    write(project, EXAMPLES["container"])
    files = examples("how-to/coming-from-testcontainers")
    project.write("conftest.py", files["before/conftest.py"])
    assert outcomes(project.run_apart()) == {"passed": 1}


@pytest.mark.engines
def test_pytest_docker_passes(project: Project, engine: Engine) -> None:
    """The fixture with pytest-docker from which the page starts works."""
    pytest.importorskip("pytest_docker", reason="pytest_docker is not installed")
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    write(project, EXAMPLES["pytest-docker"])
    before = examples("how-to/coming-from-pytest-docker")["before/conftest.py"]
    project.write("tests/conftest.py", before + VERSION_1)
    assert outcomes(project.run_apart("-p", "pytest_docker")) == {"passed": 1}
