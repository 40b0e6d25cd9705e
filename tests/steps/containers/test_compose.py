"""`compose` on real engines, with each program that reads compose files."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.steps import Container, compose, http, log_line
from tests.steps.containers.conftest import Runner
from tests.steps.containers.engines import IMAGE, SERVE
from tests.steps.containers.test_container import read

pytestmark = pytest.mark.engines

# A web server with a volume, and a job that ends. Compose replaces $$ by $.
FILE = f"""
services:
  web:
    image: {IMAGE}
    command: ["sh", "-c", "{SERVE.replace("$", "$$")}"]
    ports: ["127.0.0.1::80"]
    volumes: ["data:/data"]
  job:
    image: {IMAGE}
    command: ["echo", "migrated"]
volumes:
  data: {{}}
"""
# Has the commands of `docker compose`, which is not to be had here: they are those of
# docker-compose 1.
PLUGIN = f"""#!{sys.executable}
import os, sys
with open({{calls!r}}, "a") as file:
    print(*sys.argv[1:], file=file)
assert sys.argv[1] == "compose", sys.argv
if sys.argv[2:] != ["version"]:
    os.execv({{program!r}}, ["docker-compose", *sys.argv[2:]])
"""
PROGRAMS = ["docker compose", "docker-compose", "podman-compose"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The compose file."""
    path = tmp_path / "compose.yml"
    path.write_text(FILE)
    return path


@pytest.fixture(params=PROGRAMS)
def program(
    request: pytest.FixtureRequest,
    runner: Runner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The only program for compose files in PATH."""
    name = str(request.param)
    if name == "podman-compose" and "podman" not in runner.address:
        pytest.skip("podman-compose can use podman only")
    folder = tmp_path / "bin"
    folder.mkdir()
    real = shutil.which("docker-compose" if name == "docker compose" else name)
    if real is None:
        pytest.skip(f"{name} is not installed")
    if name == "docker compose":
        calls = str(tmp_path / "calls.txt")
        (folder / "docker").write_text(PLUGIN.format(calls=calls, program=real))
        (folder / "docker").chmod(0o755)
    else:
        (folder / name).symlink_to(real)
    hidden = [name.split()[0] for name in PROGRAMS]
    for place in os.environ["PATH"].split(os.pathsep):
        for tool in Path(place).glob("*"):
            if tool.name not in hidden and not os.path.lexists(folder / tool.name):
                (folder / tool.name).symlink_to(tool)
    monkeypatch.setenv("PATH", str(folder))
    return name


class TestPrograms:
    """Each program that reads compose files."""

    def test_it_runs_the_services(
        self, runner: Runner, program: str, file: Path, tmp_path: Path
    ) -> None:
        """Each service is a `Container`; its network and its volume are removed with it."""

        def exec(ctx: Context) -> dict[str, Container]:
            value = compose(ctx, file)
            log = ctx.artifacts / "log.txt"
            ctx.wait_until(lambda: "job | migrated\n" in log.read_text(), timeout=20)
            return value

        def look(value: dict[str, Container]) -> None:
            assert sorted(value) == ["job", "web"]
            assert read(value["web"].url) == "hello\n"
            assert value["web"].ports == {80: value["web"].port}
            assert value["job"].url is None

        runner.run(exec, look)
        if program == "docker compose":
            calls = (tmp_path / "calls.txt").read_text().splitlines()
            project = calls[1].split()[2]
            assert calls == [
                "compose version",
                f"compose -p {project} -f {file} config -q",
                f"compose -p {project} -f {file} up -d",
            ]

    def test_a_file_with_an_error_is_named(
        self, runner: Runner, program: str, tmp_path: Path
    ) -> None:
        """The message has what the program says about the file."""
        file = tmp_path / "bad.yml"
        file.write_text("services:\n  web: [1\n")
        message = runner.message(lambda ctx: compose(ctx, file))
        assert message.startswith(f"compose cannot use {file}:\n")
        assert "flow sequence" in message


class TestServices:
    """What becomes of single services."""

    def test_only_some_are_started(self, docker_runner: Runner, file: Path) -> None:
        """`services` chooses them."""

        def exec(ctx: Context) -> dict[str, Container]:
            return compose(ctx, [file], services=["web"], ready={"web": http("/")})

        docker_runner.run(exec, lambda value: list(value) == ["web"])

    def test_one_that_fails_is_named_at_once(self, runner: Runner, tmp_path: Path) -> None:
        """Another service that is not ready does not delay the message."""
        file = tmp_path / "compose.yml"
        slow, bad = "sleep 600", "echo bad config; sleep 1; exit 3"
        file.write_text(
            f'services:\n  slow: {{image: {IMAGE}, command: [sh, -c, "{slow}"], ports: ["80"]}}\n'
            f'  bad: {{image: {IMAGE}, command: [sh, -c, "{bad}"]}}\n'
        )
        assert runner.message(lambda ctx: compose(ctx, file)) == (
            "service 'bad' exited with status 3 before it was ready; its log ends:\nbad config"
        )

    def test_the_one_that_is_not_ready_is_named(self, runner: Runner, file: Path) -> None:
        """The message has the service, its condition and the last answer."""

        def exec(ctx: Context) -> dict[str, Container]:
            ready = {"web": http("/") & log_line("^never$")}
            return compose(ctx, file, ready=ready, timeout="12s")

        message = runner.message(exec)
        assert message.startswith("not ready after 12.0s: service 'web': log_line '^never$'")

    def test_a_condition_for_an_unknown_service_is_an_error(
        self, docker_runner: Runner, file: Path
    ) -> None:
        """The message has the services of the file."""
        message = docker_runner.message(lambda ctx: compose(ctx, file, ready={"wbe": http("/")}))
        assert message.startswith("compose: ready must be a dict such as ")
        assert "'wbe' is not a service; known: " in message
        assert "'web'" in message

    def test_a_port_that_is_taken_has_a_cure(self, docker_runner: Runner, tmp_path: Path) -> None:
        """The message tells how to let the engine choose a port."""
        file = tmp_path / "compose.yml"
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            file.write_text(
                f"services:\n  web: {{image: {IMAGE}, command: [sleep, '600'],"
                f" ports: ['127.0.0.1:{port}:80']}}\n"
            )
            message = docker_runner.message(lambda ctx: compose(ctx, file))
        assert message.startswith(f"compose cannot start {file}: it exited with status 1:\n")
        assert "address already in use" in message
        assert message.endswith('To let the engine choose a free port, write: ports: ["80"]')

    def test_images_that_were_built_are_removed(
        self, docker_runner: Runner, tmp_path: Path
    ) -> None:
        """A service with `build` leaves no image behind."""
        (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nCMD sleep 600\n")
        file = tmp_path / "compose.yml"
        file.write_text("services:\n  web: {build: .}\n")

        def names() -> list[str]:
            return [
                tag
                for image in docker_runner.client.images.list()
                for tag in image.tags
                if docker_runner.name in tag
            ]

        assert docker_runner.run(lambda ctx: compose(ctx, file), lambda value: names())
        assert names() == []
