"""What a step gets from a container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_plan.engine.processes.addresses import LOOPBACK, is_loopback, netloc


@dataclass(frozen=True)
class Container:
    """A running container. It is plain data, which can be kept, pickled and sent to workers.

    Attributes:
        id: the id of the container.
        host: the host on which its ports answer; `ctx.host`, if the engine is on this machine.
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
    addresses: dict[int, str] = {}
    for key, places in (attrs["NetworkSettings"].get("Ports") or {}).items():
        inner = int(key.partition("/")[0])
        for place in places or ():
            found.setdefault(inner, int(place["HostPort"]))
            addresses.setdefault(inner, place.get("HostIp") or "")
    first = [port for port in order if port in found]
    ports = {port: found[port] for port in dict.fromkeys([*first, *sorted(found)])}
    port = next(iter(ports.values()), None)
    if not is_loopback(host) and is_loopback(addresses.get(next(iter(ports), 0), "")):
        host = LOOPBACK  # a compose file publishes this port on the loopback interface only
    url = f"http://{netloc(host, port)}" if port else None
    return Container(attrs["Id"], host, port, ports, url)
