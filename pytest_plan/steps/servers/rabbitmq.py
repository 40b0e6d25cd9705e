"""The class `RabbitMQ`: a step that starts a RabbitMQ server."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import ClassVar
from urllib.parse import SplitResult, quote

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.model.durations import Duration
from pytest_plan.engine.processes.addresses import LOOPBACK, netloc
from pytest_plan.engine.shared.programs.readiness import NotReadyError
from pytest_plan.steps.ready.reply import Reply, received
from pytest_plan.steps.servers.attributes import (
    BIN,
    NAME,
    NO_SETTINGS,
    PASSWORD,
    SETTINGS,
    Settings,
)
from pytest_plan.steps.servers.programs import (
    Kind,
    find_program,
    other_user,
    private_file,
    private_folder,
)
from pytest_plan.steps.servers.server import Server, random_password
from pytest_plan.steps.service import Wanted, start

KIND = Kind(
    title="RabbitMQ",
    program="rabbitmq-server",
    install="apt-get install rabbitmq-server",
    folders=["/usr/lib/rabbitmq/bin"],
    needs=["rabbitmq-env"],
    asks=(),
)
_CAUSE = r"\[error\]|\[emergency\]|^Error\b|BOOT FAILED"
_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD = 1  # the type of the frame with which a server begins


class RabbitMQ(Server):
    """A step that starts a RabbitMQ server. Its value is its AMQP URL.

    It listens on `ctx.host` only, with the virtual host `/`. Cleanup ends it and removes its data.
    As root, it runs as the user `nobody`. It reads no configuration files.

    Attributes:
        bin: the folder with `rabbitmq-server`; None means that it is searched for.
        user: an administrator, who is created.
        password: the password of the user; None means a random one.
        settings: settings of the server, by name, as in `rabbitmq.conf`.
        attach: the name of an environment variable. If it has a URL, the step uses that server.
        timeout: the maximum duration of one attempt, as for every step.
    """

    __module__ = "pytest_plan.steps"

    timeout: Duration = "3m"
    bin: str | os.PathLike[str] | None = None
    user: str = "test"
    password: str | None = None
    settings: Settings = NO_SETTINGS

    _title = KIND.title
    _schemes = ("amqp", "amqps")
    _encrypted = ("amqps",)
    _attributes: ClassVar = {"bin": BIN, "user": NAME, "password": PASSWORD, "settings": SETTINGS}
    _reserved = ("default_pass", "default_user", "listeners.tcp")

    def _start(self, ctx: Context) -> str:
        program = find_program(KIND, self.bin)
        ctx.log(f"RabbitMQ {program}")
        user = other_user(program)
        password = self.password or random_password()
        folder = private_folder(ctx.tmp_path / "rabbitmq", user)
        self._configure(folder, password, user)
        wanted = Wanted(
            [program.path], env=_environment(folder), cwd=folder, user=user, cause=_CAUSE
        )
        served = start(ctx, wanted, self._reply(SplitResult("", "", "", "", "")), None)
        secret = quote(password, safe="")
        return f"amqp://{self.user}:{secret}@{netloc(served.host, served.port)}/%2F"

    def _reply(self, url: SplitResult) -> Reply:
        return Reply("amqp", _greeted)

    def _configure(self, folder: Path, password: str, user: str | None) -> None:
        words = {True: "true", False: "false"}
        given = {
            name: words[value] if isinstance(value, bool) else value
            for name, value in self.settings.items()
        }
        lines = {
            "default_user": self.user,
            "default_pass": password,
            "log.console": "true",
            "log.file": "false",
            **given,
        }
        text = "".join(f"{name} = {value}\n" for name, value in lines.items())
        private_file(folder / "rabbitmq.conf", text, user)
        private_file(folder / "plugins", "[].\n", user)
        private_file(folder / ".erlang.cookie", secrets.token_hex(), user).chmod(0o400)


def _environment(folder: Path) -> dict[str, str | None]:
    """Return the environment that keeps a server apart from others on the same machine."""
    ours: dict[str, str | None] = {
        "RABBITMQ_NODE_PORT": "{port}",  # first, because readiness is checked on the first port
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "ERL_CRASH_DUMP_SECONDS": "0",  # none
        "ERL_EPMD_ADDRESS": LOOPBACK,  # for its own tools, with its own protocol
        "ERL_EPMD_PORT": "{port:epmd}",
        # Makes the script exec the server. Otherwise it exits with status 0 when the server dies.
        "RUNNING_UNDER_SYSTEMD": "true",
        "NOTIFY_SOCKET": None,
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_DIST_PORT": "{port:dist}",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_NODENAME": "rabbit@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "{host}",
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    others = (name for name in os.environ if name.startswith(("RABBITMQ_", "ERL_")))
    return {**dict.fromkeys(others), **ours}


def _greeted(connection: socket.socket) -> None:
    """Begin a session, which the server answers with its properties."""
    connection.sendall(_HEADER)
    kind = received(connection, 7)[0]
    if kind != _METHOD:
        raise NotReadyError(f"not a RabbitMQ server: it answered {bytes([kind])!r}")
