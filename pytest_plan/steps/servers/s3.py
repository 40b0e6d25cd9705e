"""The class `S3`: a step that starts an S3-compatible server."""

from __future__ import annotations

import os
import socket
import sys
from typing import ClassVar
from urllib.parse import SplitResult, urlsplit

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.shared.programs.readiness import NotReadyError
from pytest_plan.steps.ready.reply import Reply, received
from pytest_plan.steps.servers.attributes import BIN
from pytest_plan.steps.servers.programs import Kind, find_program
from pytest_plan.steps.servers.server import Server, log_open_server
from pytest_plan.steps.service import Wanted, start

KIND = Kind(
    title="moto, the server for S3,",
    program="moto_server",
    install="pip install 'moto[server]'",
    folders=[os.path.dirname(sys.executable)],
    asks=(),
)
_CAUSE = r"^\w*(Error|Exception)\b"
_REQUEST = b"GET / HTTP/1.0\r\n\r\n"


class S3(Server):
    """A step that starts an S3-compatible server. Its value is the endpoint URL.

    The server is moto, which imitates S3 and keeps all objects in memory. It listens on `ctx.host`
    only, and accepts any credentials. Cleanup ends it.

    Attributes:
        bin: the folder with `moto_server`; None means that it is searched for.
        attach: the name of an environment variable. If it has a URL, the step uses that server.
        timeout: the maximum duration of one attempt, as for every step.
    """

    __module__ = "pytest_plan.steps"

    bin: str | os.PathLike[str] | None = None

    _title = "S3"
    _schemes = ("http", "https")
    _encrypted = ("https",)
    _attributes: ClassVar = {"bin": BIN}

    def _start(self, ctx: Context) -> str:
        program = find_program(KIND, self.bin)
        ctx.log(f"moto {program}")
        log_open_server(ctx, self._title)
        wanted = Wanted(
            [program.path, "--host", "{host}", "--port", "{port}"],
            cwd=ctx.tmp_path,
            cause=_CAUSE,
        )
        return start(ctx, wanted, self._reply(urlsplit("")), None).url or ""

    def _reply(self, url: SplitResult) -> Reply:
        return Reply("s3", _answers_http)


def _answers_http(connection: socket.socket) -> None:
    connection.sendall(_REQUEST)
    if received(connection, 5) != b"HTTP/":
        raise NotReadyError("not an HTTP server")
