"""The examples of the page about containers pass on Docker."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.not_run import NOT_RUN
from tests.docs.pages import blocks, examples
from tests.images import NGINX, REDIS, require_images
from tests.plugin.project import Project
from tests.steps.containers.engines import address_of
from tests.xdist.cluster import outcomes

PAGE = "how-to/containers"
# The page shows no compose file. This one has the services that its example uses.
COMPOSE = f"""
services:
  web:
    image: {NGINX}
    volumes: ["./site:/usr/share/nginx/html:ro"]
    ports: ["127.0.0.1::80"]
  redis:
    image: {REDIS}
    ports: ["127.0.0.1::6379"]
"""
# The tests for the conftests of the page, in their order.
TESTS = [
    examples(PAGE)["test_web.py"],
    "def test_redis(redis): assert redis.ports[6379] == redis.port",
    examples(PAGE)["test_stack.py"],
]


@pytest.mark.engines
@pytest.mark.parametrize("number", range(len(TESTS)))
def test_example_passes(
    project: Project, own_temporary_folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Each conftest of the page runs its containers."""
    address = address_of("docker")
    require_images(address, NGINX, REDIS)
    monkeypatch.setenv("DOCKER_HOST", address)
    conftests = [block.text for block in blocks(PAGE) if block.file == "conftest.py"]
    assert len(conftests) == len(TESTS)
    project.write("conftest.py", conftests[number])
    project.write("test_it.py", TESTS[number])
    project.write("compose.yml", COMPOSE)
    project.write("site/index.html", "hello")
    project.write("site/health", "ok")
    result = project.run_apart()
    assert outcomes(result) == {"passed": 1}
    assert result.ret == 0


@pytest.mark.engines
def test_commands_of_docker_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command lists the containers of plans, and one finds the address of the engine."""
    if shutil.which("docker") is None:
        pytest.skip("the program docker is not installed")
    address = address_of("docker")
    monkeypatch.setenv("DOCKER_HOST", address)
    listing, finding = (one for one in NOT_RUN[f"docs/{PAGE}.md"] if "docker " in one)
    assert _output(listing).startswith("CONTAINER ID")
    assert _output(f"{finding}; echo $DOCKER_HOST").strip() == address


def _output(command: str) -> str:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=30
    ).stdout
