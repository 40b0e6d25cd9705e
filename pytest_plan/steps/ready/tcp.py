"""The condition that a server accepts TCP connections."""

from __future__ import annotations

import socket

from pytest_plan.engine.model.durations import Duration, parse_duration
from pytest_plan.engine.model.errors import PlanDefinitionError, describe
from pytest_plan.engine.processes.addresses import netloc
from pytest_plan.engine.shared.programs.readiness import Condition, NotReadyError, Target

_LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::")  # noqa: S104 - nothing binds to it


def tcp(port: int | str | None = None, *, timeout: Duration = "5s") -> Condition:
    """Return the condition that a TCP connection is accepted.

    Args:
        port: the number of the port, or its name as in `{port:admin}`; of a container, the number
            inside it. None means the first port of the server.
        timeout: the maximum duration of one try.

    Raises:
        PlanDefinitionError: an argument is invalid.
    """
    is_number = isinstance(port, int) and not isinstance(port, bool)
    if not (port is None or isinstance(port, str) or (is_number and 0 < int(port) < 65536)):
        raise PlanDefinitionError(
            f"tcp: {port!r} is not a port; use a number from 1 to 65535, or the name of a port"
        )
    return Tcp(port, parse_duration(timeout, "tcp: timeout", zero=False))


class Tcp(Condition):
    """The condition that `tcp` returns.

    Args:
        port: the port, by number or name; None means the first port of the target.
        timeout: the maximum duration of one try, in seconds.
    """

    def __init__(self, port: int | str | None, timeout: float) -> None:
        self.made = Tcp, (port, timeout)
        self._port = port
        self._timeout = timeout

    def check(self, target: Target, timeout: float) -> None:
        """Connect; see `Condition.check`."""
        host, port = target.address(self._port)
        try:
            with socket.create_connection((host, port), min(self._timeout, timeout)) as connection:
                is_accepted = target.has_accepted(connection)
        except OSError as error:
            raise NotReadyError(f"tcp {netloc(host, port)}: {said(error)}") from None
        if not is_accepted:
            raise NotReadyError(f"tcp {netloc(host, port)}: the connection is closed at once")

    def local_ports(self, target: Target) -> set[int]:
        """Return the port, if it is one of this machine."""
        return local_port(target, *target.address(self._port))


def said(error: Exception) -> str:
    """Return the message of a connection error, such as `Connection refused` or `timed out`."""
    if isinstance(error, OSError):
        return error.strerror or str(error) or describe(error)
    return describe(error)


def local_port(target: Target, host: str, port: int) -> set[int]:
    """Return the port if the host is loopback or that of the target, else nothing."""
    is_here = host in (*_LOCAL, target.host) or host.startswith("127.")
    return {port} if is_here else set()
