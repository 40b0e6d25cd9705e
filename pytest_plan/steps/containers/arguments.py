"""The arguments of a container, checked before anything is asked of an engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.secret import Secret

_HIGHEST_PORT = 65535
_IMAGE = "container: image must be a name such as 'postgres:17'"
_COMMAND = "container: command must be a list such as ['prog', 'argument']"
_PORTS = "container: ports must be a list such as [5432, '8080:80', '53/udp']"
_VOLUMES = "container: volumes must be a dict such as {'sql': '/docker-entrypoint-initdb.d:ro'}"
_ENV = "container: env must be a dict of text, such as {'POSTGRES_PASSWORD': 'test'}"


class Port(NamedTuple):
    """A port of a container that is published on this machine.

    Attributes:
        inner: the port in the container.
        outer: the port on this machine; None lets the engine choose a free one.
        protocol: `tcp`, `udp` or `sctp`.
    """

    inner: int
    outer: int | None
    protocol: str

    @property
    def key(self) -> str:
        """The port in the container as engines write it, such as `80/tcp`."""
        return f"{self.inner}/{self.protocol}"


class Arguments(NamedTuple):
    """What a container is made of.

    Attributes:
        image: the name of its image.
        command: the arguments that replace those of the image; None keeps those.
        ports: the ports that are published.
        env: its environment variables.
        volumes: what of this machine it sees, as `FOLDER:PLACE` or `FOLDER:PLACE:ro`.
    """

    image: str
    command: list[str] | None
    ports: list[Port]
    env: dict[str, str]
    volumes: list[str]


def arguments(image: Any, command: Any, ports: Any, env: Any, volumes: Any) -> Arguments:
    """Check what `container` was called with.

    Raises:
        PlanDefinitionError: an argument is invalid, or a path of `volumes` does not exist.
    """
    if not isinstance(image, str) or not image.strip():
        raise PlanDefinitionError(
            f"container: image must be a name such as 'postgres:17', not {image!r}"
        )
    return Arguments(image.strip(), _command(command), _ports(ports), _env(env), _volumes(volumes))


def _command(command: Any) -> list[str] | None:
    if command is None:
        return None
    if isinstance(command, (str, bytes)) or not isinstance(command, Sequence):
        raise PlanDefinitionError(
            f"container: command must be a list such as ['prog', 'argument'], not {command!r}"
        )
    return [os.fspath(part) for part in command]


def _ports(ports: Any) -> list[Port]:
    if isinstance(ports, (str, bytes)) or not isinstance(ports, Sequence):
        raise PlanDefinitionError(f"{_PORTS}, not {ports!r}")
    found = [_port(port) for port in ports]
    for number, port in enumerate(found):
        if any(port.key == other.key for other in found[:number]):
            raise PlanDefinitionError(f"{_PORTS}, each once; {port.key} is there twice")
    return found


def _port(port: Any) -> Port:
    outer, _, rest = port.rpartition(":") if isinstance(port, str) else ("", "", str(port))
    inner, _, protocol = rest.partition("/")
    if isinstance(port, bool) or not isinstance(port, (int, str)) or outer.count(":"):
        raise PlanDefinitionError(f"{_PORTS}; {port!r} is no port")
    if protocol not in ("", "tcp", "udp", "sctp"):
        raise PlanDefinitionError(f"{_PORTS}; {protocol!r} is no protocol")
    return Port(_number(inner, port), _number(outer, port) if outer else None, protocol or "tcp")


def _number(text: str, port: Any) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number <= _HIGHEST_PORT:
        raise PlanDefinitionError(f"{_PORTS}; {port!r} is no port")
    return number


def _env(env: Any) -> dict[str, str]:
    if not isinstance(env or {}, Mapping):
        raise PlanDefinitionError(f"{_ENV}, not {env!r}")
    return {_name(name): _value(name, value) for name, value in (env or {}).items()}


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name or "=" in name:
        raise PlanDefinitionError(f"{_ENV}; {name!r} is no name of a variable")
    return name


def _value(name: str, value: Any) -> str:
    if isinstance(value, Secret):
        value = value.reveal()
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise PlanDefinitionError(
            f"{_ENV}; the value of {name!r} is of type {type(value).__name__}"
        )
    return str(value)


def _volumes(volumes: Any) -> list[str]:
    if not isinstance(volumes or {}, Mapping):
        raise PlanDefinitionError(f"{_VOLUMES}, not {volumes!r}")
    return [_volume(source, place) for source, place in (volumes or {}).items()]


def _volume(source: Any, place: Any) -> str:
    if not isinstance(source, (str, os.PathLike)) or not isinstance(place, str):
        raise PlanDefinitionError(f"{_VOLUMES}; {source!r}: {place!r} is no pair of paths")
    path = os.path.abspath(os.fspath(source))
    target, _, mode = place.partition(":")
    if not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise PlanDefinitionError(f"{_VOLUMES}; {place!r} is no absolute path in the container")
    if ":" in path:
        raise PlanDefinitionError(f"{_VOLUMES}; engines do not understand the colon in {path!r}")
    if not os.path.exists(path):
        raise PlanDefinitionError(
            f"{_VOLUMES}; {path!r} does not exist. A named volume would outlive the run: "
            "use a folder, such as ctx.tmp_path"
        )
    return f"{path}:{place}"
