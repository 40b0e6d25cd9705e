"""The container engine: Docker or podman, through the API that both have."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.processes.addresses import LOOPBACK

_ANSWERS_WITHIN = 20.0  # seconds for the first answer of an engine
_ACTS_WITHIN = 60.0  # seconds for any other answer
_REMOVED_WITHIN = 20.0  # seconds until what was removed is gone
PROJECT = "com.docker.compose.project"  # the label that all programs for compose files use
TAKEN = "(?i)port is already allocated|address already in use"  # what engines say about a port
_CURE = "start Docker, or podman: systemctl --user start podman.socket"
_INSTALL = "pip install 'pytest-plan[docker]'"


class Engine:
    """A container engine that has answered.

    Attributes:
        address: its address, as in DOCKER_HOST.
        client: the client of the library `docker`.
        is_podman: whether it is podman.
        host: the host on which the ports that the engine publishes answer; of an engine on this
            machine, `ctx.host`.
    """

    def __init__(self, address: str, client: Any, *, is_podman: bool) -> None:
        self.address = address
        self.client = client
        self.is_podman = is_podman
        self.host = host_of(address)

    @property
    def is_local(self) -> bool:
        """Whether the engine runs on this machine and sees its files."""
        return host_of(self.address) == LOOPBACK

    def allow(self, seconds: float | None) -> None:
        """Let the engine take at most so long for each further answer; None means the default."""
        self.client.api.timeout = _ACTS_WITHIN if seconds is None else min(_ACTS_WITHIN, seconds)

    def labelled(self, kind: str, label: str) -> list[Any]:
        """Return what has the label.

        Args:
            kind: `containers`, `networks` or `volumes`.
            label: the label, such as `name=value`.
        """
        # Containers that have ended count. The list has little about each: to ask for more would
        # fail if one of them is removed meanwhile.
        how = {"all": True, "sparse": True} if kind == "containers" else {}
        return list(getattr(self.client, kind).list(filters={"label": label}, **how))


def connect(ctx: Context) -> Engine:
    """Return the engine at DOCKER_HOST, or else the first one that answers at a usual place.

    Raises:
        RuntimeError: no engine answers, or the library `docker` is missing.
    """
    docker_library()  # this takes a while, which is not to count as time of the engine
    given = os.environ.get("DOCKER_HOST")
    failed = {}
    for address in [given] if given else _addresses():
        ctx.check()
        try:
            engine = open_engine(address, ctx.remaining())
        except UnreachableError as error:
            failed[address] = str(error)
            continue
        engine.allow(ctx.remaining())
        if engine.is_local:
            engine.host = ctx.host
        return engine
    name = "DOCKER_HOST; " if given else ""
    tried = ", ".join(f"{address} ({name}{reason})" for address, reason in failed.items())
    raise RuntimeError(f"no container engine answers at {tried}: {_CURE}")


def remove(address: str, label: str) -> None:
    """Remove every container, network and volume that has the label, as an undo of a step.

    Raises:
        RuntimeError: the engine does not answer, or something cannot be removed.
    """
    with _for_removal(address, label) as engine:
        remove_labelled(engine, label)


@contextlib.contextmanager
def _for_removal(address: str, label: str) -> Iterator[Engine]:
    try:
        engine = open_engine(address, None)
    except UnreachableError as error:
        raise RuntimeError(
            f"the container engine at {address} does not answer ({error}), so what has the label "
            f"{label!r} is still there: docker rm -fv $(docker ps -aq --filter label={label})"
        ) from None
    with closing(engine):
        engine.allow(None)
        yield engine


def remove_project(address: str, project: str) -> None:
    """Remove what belongs to a project of Compose, as an undo of a step.

    Raises:
        RuntimeError: the engine does not answer, or something cannot be removed.
    """
    label = f"{PROJECT}={project}"
    with _for_removal(address, label) as engine:
        remove_labelled(engine, label)
        with explained(f"cannot remove the images of project {project!r}"):
            tags = [tag for image in engine.client.images.list() for tag in image.tags]
            for tag in tags:
                if re.match(rf"(localhost/)?{re.escape(project)}[-_]", tag):
                    engine.client.images.remove(tag, noprune=True)  # parents are Docker's cache


def remove_labelled(engine: Engine, label: str) -> None:
    """Remove every container, network and volume that has the label.

    Raises:
        RuntimeError: something cannot be removed.
    """
    deadline = SystemClock.now() + _REMOVED_WITHIN
    for kind, how in (
        ("containers", {"force": True, "v": True}),
        ("networks", {}),
        ("volumes", {"force": True}),
    ):
        what = f"cannot remove {kind} with the label {label!r}"
        with explained(what):
            # The engine may be removing something already, or refuse for a moment.
            while left := engine.labelled(kind, label):
                is_last = SystemClock.now() >= deadline
                for one in left:
                    _remove(one, how, is_last=is_last)
                if is_last:
                    raise RuntimeError(f"{what}: {len(left)} are still there")
                SystemClock.sleep(0.05)


def _remove(one: Any, how: Mapping[str, Any], *, is_last: bool) -> None:
    errors = docker_library().errors
    try:
        one.remove(**how)
    except errors.NotFound:
        pass
    except errors.APIError:
        if is_last:
            raise


@contextlib.contextmanager
def closing(engine: Engine) -> Iterator[Engine]:
    """Close the connections to the engine at the end."""
    try:
        yield engine
    finally:
        engine.client.close()


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Raise RuntimeError with a message of one line if the engine refuses or does not answer.

    Args:
        what: what cannot be done then.
    """
    docker, requests = docker_library(), _requests()
    try:
        yield
    except docker.errors.APIError as error:
        raise RuntimeError(f"{what}: {reason(error)}") from None
    except requests.exceptions.Timeout:
        raise RuntimeError(
            f"{what}: the container engine accepts connections but does not answer: restart it"
        ) from None
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise RuntimeError(f"{what}: the container engine has failed: {_short(error)}") from None


def reason(error: Any) -> str:
    """Return what the engine has answered, on one line."""
    return " ".join(str(getattr(error, "explanation", None) or error).split())


def docker_library() -> Any:
    """Return the library `docker`.

    Raises:
        RuntimeError: the library is not installed.
    """
    try:
        import docker
    except ModuleNotFoundError as error:
        raise RuntimeError(f"containers need the library 'docker' ({error}): {_INSTALL}") from None
    return docker


def host_of(address: str) -> str:
    """Return the host on which the published ports of an engine answer."""
    parts = urlsplit(address)
    is_remote = parts.scheme in ("tcp", "http", "https", "ssh")
    name = parts.hostname if is_remote else None
    return LOOPBACK if name in (None, "localhost", LOOPBACK, "::1") else str(name)


class UnreachableError(Exception):
    """An engine cannot be reached. The text is the reason."""


def open_engine(address: str, remaining: float | None) -> Engine:
    """Return the engine at an address; close it with `closing`.

    Args:
        address: the address, as in DOCKER_HOST.
        remaining: the seconds that are left; None means no limit.

    Raises:
        UnreachableError: it does not answer.
    """
    docker, requests = docker_library(), _requests()
    patience = _ANSWERS_WITHIN if remaining is None else min(_ANSWERS_WITHIN, 0.8 * remaining)
    patience = max(0.1, patience)
    create = functools.partial(
        docker.DockerClient.from_env,
        environment={**os.environ, "DOCKER_HOST": address},
        timeout=patience,
        use_ssh_client=True,
    )
    try:
        _knock(address, patience)
        # The library would ask for the version instead, for which podman starts programs.
        with contextlib.closing(create(version=docker.constants.DEFAULT_DOCKER_API_VERSION)) as one:
            answer = one.api.get(f"{one.api.base_url}/_ping", timeout=patience)
            answer.raise_for_status()
        return Engine(
            address,
            create(version=answer.headers["Api-Version"]),
            is_podman="Libpod-API-Version" in answer.headers,
        )
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise UnreachableError(_reason_of(error, patience)) from None
    except KeyError:
        raise UnreachableError("this is no container engine") from None


def _knock(address: str, patience: float) -> None:
    """Connect to a Unix socket; raise OSError if nobody listens there.

    The library would leave its socket open.
    """
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as knock:
            knock.settimeout(patience)
            knock.connect(address.removeprefix("unix://"))


def _reason_of(error: BaseException, patience: float) -> str:
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for known, text in (
        (TimeoutError, f"it accepts connections but has not answered within {patience:.3g}s"),
        (PermissionError, "permission denied: add this user to the group of the socket"),
        (FileNotFoundError, "no such socket"),
        (ConnectionRefusedError, "connection refused"),
    ):
        if any(isinstance(one, known) for one in causes):
            return text
    return _short(error)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}..."


def _addresses() -> list[str]:
    """Return the addresses of sockets that exist where engines usually have them."""
    return [f"unix://{path}" for path in _usual_sockets() if path.is_socket()] or [_default()]


def _usual_sockets() -> list[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    user = Path(runtime) if runtime else Path(f"/run/user/{os.getuid()}")
    return [
        Path("/var/run/docker.sock"),
        user / "docker.sock",
        Path.home() / ".docker/run/docker.sock",
        user / "podman/podman.sock",
        Path("/run/podman/podman.sock"),
    ]


def _default() -> str:
    return "unix:///var/run/docker.sock"


def _requests() -> Any:
    import requests  # a dependency of the library `docker`

    return requests
