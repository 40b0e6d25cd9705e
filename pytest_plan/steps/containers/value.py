"""What a step gets from a container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Container:
    """A running container. It is plain data, which can be kept, pickled and sent to workers.

    Attributes:
        id: the id of the container.
        host: the host on which its ports answer, such as `127.0.0.1`.
        port: the first of its published ports, as a number of `host`; None if it publishes none.
        ports: all its published ports, by their numbers in the container.
        url: the URL `http://HOST:PORT` of `port`; None if it publishes none.
    """

    __module__ = "pytest_plan.steps"

    id: str
    host: str
    port: int | None
    ports: Mapping[int, int]
    url: str | None


def value_of(host: str, attrs: Mapping[str, Any], order: Sequence[int] = ()) -> Container:
    """Return the value for a container.

    Args:
        host: the host on which the published ports of its engine answer.
        attrs: the container, as the engine describes it.
        order: the ports in the container that come first.
    """
    found: dict[int, int] = {}
    for key, places in (attrs["NetworkSettings"].get("Ports") or {}).items():
        for place in places or ():
            found.setdefault(int(key.partition("/")[0]), int(place["HostPort"]))
    first = [port for port in order if port in found]
    ports = {port: found[port] for port in dict.fromkeys([*first, *sorted(found)])}
    port = next(iter(ports.values()), None)
    return Container(attrs["Id"], host, port, ports, f"http://{host}:{port}" if port else None)
