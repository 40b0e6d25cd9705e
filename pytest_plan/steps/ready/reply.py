"""The condition that a server answers in its own protocol. No client library is needed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeAlias

from pytest_plan.engine.processes.addresses import netloc
from pytest_plan.engine.shared.programs.readiness import Condition, NotReadyError, Target
from pytest_plan.steps.ready.tcp import local_port, said

_LONGEST = 5.0  # seconds that one try may take

Ask: TypeAlias = Callable[[socket.socket], None]


class Reply(Condition):
    """The condition that a server answers as its protocol says.

    Args:
        protocol: the name of the protocol, for messages.
        ask: a function that talks to the server through a connection. It returns if the server is
            ready, and else raises `NotReadyError` with the answer.
        made: see `Condition`.
    """

    def __init__(
        self,
        protocol: str,
        ask: Ask,
        made: tuple[Callable[..., Condition], tuple[object, ...]] | None = None,
    ) -> None:
        self.made = made
        self._protocol = protocol
        self._ask = ask

    def check(self, target: Target, timeout: float) -> None:
        """Ask the server on the first port of the target; see `Condition.check`."""
        self.check_at(*target.address(), timeout)

    def check_at(self, host: str, port: int, timeout: float = _LONGEST) -> None:
        """Ask the server that listens on a port; see `Condition.check`."""
        try:
            with socket.create_connection((host, port), min(_LONGEST, timeout)) as connection:
                self._ask(connection)
        except (OSError, NotReadyError) as error:
            text = str(error) if isinstance(error, NotReadyError) else said(error)
            raise NotReadyError(f"{self._protocol} {netloc(host, port)}: {text}") from None

    def local_ports(self, target: Target) -> set[int]:
        """Return the port, if it is one of this machine."""
        return local_port(target, *target.address())


def received(connection: socket.socket, count: int) -> bytes:
    """Return the next `count` bytes of an answer.

    Raises:
        NotReadyError: the server has closed the connection before.
        OSError: the server does not answer.
    """
    found = b""
    while len(found) < count:
        more = connection.recv(count - len(found))
        if not more:
            raise NotReadyError("the server closed the connection")
        found += more
    return found
