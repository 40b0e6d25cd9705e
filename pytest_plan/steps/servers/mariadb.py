"""The class `MariaDB`: a step that starts a MariaDB server."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import ClassVar
from urllib.parse import SplitResult, quote

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.processes.addresses import LOOPBACK, netloc
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
    find_program,
    other_user,
    private_file,
    private_folder,
)
from pytest_plan.steps.servers.server import Server, password_of, run_or_explain
from pytest_plan.steps.service import Wanted, start

KIND = Kind(
    title="MariaDB",
    program="mariadbd",
    install="apt-get install mariadb-server",
    folders=["/usr/sbin"],
)
_INSTALL = Kind(
    title="MariaDB",
    program="mariadb-install-db",
    install="apt-get install mariadb-server",
    folders=["/usr/bin"],
    asks=(),
)
_CAUSE = r"\[ERROR\](?! Aborting)"
_GREETING = 10  # the version of the protocol, with which a greeting begins
_REFUSAL = 0xFF


class MariaDB(Server):
    """A step that starts a MariaDB server. Its value is the URL of a database.

    It listens on `ctx.host` only. Cleanup ends it and removes its data. For speed, it does not wait
    until data is on the disk. As root, it runs as the user `nobody`. No configuration file is read.

    Attributes:
        version: the version, such as `"10.11"`; None means any that is installed.
        bin: the folder with `mariadbd`; None means that it is searched for.
        database: the database, which is created.
        user: a user with all rights, who is created.
        password: the password of the user; None means a random one, and "" that none is needed.
        settings: settings of the server, by name.
        attach: the name of an environment variable. If it has a URL, the step uses that server.
        timeout: the maximum duration of one attempt, as for every step.
    """

    __module__ = "pytest_plan.steps"

    version: str | None = None
    bin: str | os.PathLike[str] | None = None
    database: str = "test"
    user: str = "test"
    password: str | None = None
    settings: Settings = NO_SETTINGS

    _title = KIND.title
    _schemes = ("mysql", "mariadb")
    _attributes: ClassVar = {
        "version": VERSION,
        "bin": BIN,
        "database": NAME,
        "user": NAME,
        "password": PASSWORD,
        "settings": SETTINGS,
    }
    _reserved = ("bind_address", "datadir", "init_file", "pid_file", "port", "socket", "user")

    def _start(self, ctx: Context) -> str:
        program = find_program(KIND, self.bin, self.version)
        install = _installer(program.path)
        ctx.log(f"MariaDB {program}")
        user = other_user(program)
        password = password_of(self, ctx, self.password)
        folder = private_folder(ctx.tmp_path / "mariadb", user)
        data = folder / "data"
        how = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        run_or_explain(
            ctx, [install, "--no-defaults", f"--datadir={data}", *how], folder, user, _CAUSE
        )
        first = private_file(folder / "first.sql", self._first_statements(ctx, password), user)
        served = start(
            ctx,
            Wanted(
                [
                    program.path, "--no-defaults", f"--datadir={data}",
                    "--bind-address={host}", "--port={port}", f"--socket={folder / 'socket'}",
                    f"--pid-file={folder / 'pid'}", f"--init-file={first}", "--skip-name-resolve",
                    "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin",
                    *_options(self.settings),
                ],
                env={"TMPDIR": str(folder)}, cwd=folder, user=user, cause=_CAUSE,
            ),
            self._reply(SplitResult("", "", "", "", "")),
            None,
        )  # fmt: skip
        secret = f":{quote(password, safe='')}" if password else ""
        where = netloc(served.host, served.port)
        return f"mysql://{self.user}{secret}@{where}/{self.database}"

    def _reply(self, url: SplitResult) -> Reply:
        return Reply("mysql", _greeted)

    def _first_statements(self, ctx: Context, password: str) -> str:
        """Return what the server executes at each start, before it accepts connections."""
        text = password.replace("\\", "\\\\").replace("'", "\\'")
        who = f"`{self.user}`@`{LOOPBACK if ctx.host == LOOPBACK else '%'}`"
        return (
            f"create database if not exists `{self.database}` character set utf8mb4;\n"
            "delete from mysql.global_priv where user = 'root';\nflush privileges;\n"
            f"create or replace user {who} identified by '{text}';\n"
            f"grant all on *.* to {who} with grant option;\n"
        )


def _installer(program: Path) -> Path:
    """Return the program that creates the files of a server."""
    for folder in (
        program.parent,
        program.parent.parent / "bin",
        program.parent.parent / "scripts",
    ):
        if (path := folder / _INSTALL.program).is_file():
            return path
    return find_program(_INSTALL).path


def _options(settings: Settings) -> list[str]:
    words = {True: "ON", False: "OFF"}
    return [
        f"--{name}={words[value] if isinstance(value, bool) else value}"
        for name, value in settings.items()
    ]


def _greeted(connection: socket.socket) -> None:
    """Read the greeting that the server sends to each client."""
    header = received(connection, 4)
    greeting = received(connection, int.from_bytes(header[:3], "little"))
    if greeting[0] == _REFUSAL:
        raise NotReadyError(greeting[3:].decode("utf-8", "replace"))
    if greeting[0] != _GREETING:
        raise NotReadyError(f"not a MariaDB server: it sent {greeting[:1]!r}")
