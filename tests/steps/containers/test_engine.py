"""How `container` and `compose` find an engine, and what they say if none answers."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.steps import container
from pytest_plan.steps.containers.engines.engine import host_of, remove
from pytest_plan.steps.containers.programs import find_program
from tests.steps.running import cause_of, log_of

CURE = "start Docker, or podman: systemctl --user start podman.socket"


def use(ctx: Context) -> None:
    """Run a container."""
    container(ctx, "plan-test/none")


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """The address of an engine that accepts connections and never answers."""
    path = Path(tempfile.mkdtemp(prefix="e", dir="/tmp")) / "silent.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(100)
        yield f"unix://{path}"
    shutil.rmtree(path.parent)


def test_no_engine_is_one_message_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the address, where that is from, and why there was no answer."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert str(cause_of(use)) == (
        "no container engine answers at unix:///nowhere/docker.sock "
        f"(DOCKER_HOST; no such socket): {CURE}"
    )


def test_an_engine_that_refuses_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is not there, with its own reason."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        monkeypatch.setenv("DOCKER_HOST", address)
        assert str(cause_of(use)) == (
            f"no container engine answers at {address} (DOCKER_HOST; connection refused): {CURE}"
        )


def test_an_engine_that_hangs_is_one_message_within_the_timeout(
    monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    """The step ends with the message before its timeout ends it."""
    monkeypatch.setenv("DOCKER_HOST", silent)
    message = str(cause_of(use, timeout="10s"))
    assert message.startswith(f"no container engine answers at {silent} (DOCKER_HOST; it accepts ")
    assert message.endswith(f"): {CURE}")


def test_nothing_is_to_be_undone_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed step has no failed cleanup as well: `cause_of` would see that error."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert "cleanup" not in log_of(use)


def test_the_usual_sockets_are_tried_in_order(
    monkeypatch: pytest.MonkeyPatch, silent: str, tmp_path: Path
) -> None:
    """Without DOCKER_HOST, the sockets of the user and of the system count, if they are there."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    folder = Path(silent.removeprefix("unix://")).parent
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    podman = folder / "podman" / "podman.sock"
    podman.parent.mkdir()
    (folder / "silent.sock").rename(podman)
    message = str(cause_of(use, timeout="10s"))
    if Path("/var/run/docker.sock").is_socket():
        pytest.skip("Docker runs at its usual socket")
    assert message.startswith(f"no container engine answers at unix://{podman} (it accepts")


def test_an_undo_without_an_engine_tells_how_to_finish() -> None:
    """Its message has the command that removes what is left."""
    with pytest.raises(RuntimeError) as caught:
        remove("unix:///nowhere/docker.sock", "pytest-plan.call=plan-1")
    assert str(caught.value) == (
        "the container engine at unix:///nowhere/docker.sock does not answer (no such socket), so "
        "what has the label 'pytest-plan.call=plan-1' is still there: "
        "docker rm -fv $(docker ps -aq --filter label=pytest-plan.call=plan-1)"
    )


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the command that installs the library."""
    monkeypatch.setitem(sys.modules, "docker", None)
    message = str(cause_of(use))
    assert message.startswith("containers need the library 'docker' (")
    assert message.endswith("): pip install 'pytest-plan[docker]'")


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("unix:///var/run/docker.sock", "127.0.0.1"),
        ("tcp://localhost:2375", "127.0.0.1"),
        ("tcp://docker:2376", "docker"),
        ("ssh://me@build.example", "build.example"),
    ],
)
def test_ports_answer_on_the_host_of_the_engine(address: str, host: str) -> None:
    """An engine on another machine publishes ports there."""
    assert host_of(address) == host


class TestPrograms:
    """The program that reads compose files."""

    def install(self, folder: Path, name: str, status: int = 0) -> None:
        """Write a program that exits with a status."""
        (folder / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (folder / name).chmod(0o755)

    @pytest.fixture(autouse=True)
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let PATH have nothing but a folder of the test."""
        monkeypatch.setenv("PATH", str(tmp_path))

    def test_the_first_that_is_installed_is_used(self, tmp_path: Path) -> None:
        """`docker compose`, then docker-compose, then, for podman, podman-compose."""
        assert find_program(is_podman=True) is None
        self.install(tmp_path, "podman-compose")
        assert find_program(is_podman=True) == ["podman-compose"]
        assert find_program(is_podman=False) is None
        self.install(tmp_path, "docker-compose")
        assert find_program(is_podman=True) == ["docker-compose"]
        self.install(tmp_path, "docker", status=1)
        assert find_program(is_podman=True) == ["docker-compose"]
        self.install(tmp_path, "docker")
        assert find_program(is_podman=True) == ["docker", "compose"]
