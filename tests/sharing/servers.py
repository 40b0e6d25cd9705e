"""Real servers for tests: Redis and PostgreSQL, on loopback, with passwords."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.steps.servers import postgresql, redis
from pytest_plan.steps.servers.programs import Kind, find_program, other_user, private_file

PASSWORD = "p@ss/word"
QUOTED = "p%40ss%2Fword"
_LONGEST = 60.0  # seconds until a server answers


class Program:
    """A server that this process has started.

    Attributes:
        port: its port on 127.0.0.1.
        url: the URL of its database, with the password.
    """

    def __init__(self, words: list[str], port: int, url: str, user: str | None = None) -> None:
        self.port = port
        self.url = url
        self._words = words
        self._user = user
        self.process = self._start()

    def signal(self, number: int) -> None:
        """Send a signal to the server and its children."""
        os.killpg(self.process.pid, number)

    def end(self) -> None:
        """End the server."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
        self.process.wait(_LONGEST)

    def restart(self) -> None:
        """End the server and start it again, with what it has on its disk."""
        self.end()
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=self._user,
            start_new_session=True, cwd="/", extra_groups=[] if self._user else None,
        )  # fmt: skip
        until = SystemClock.now() + _LONGEST
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return process
            assert process.poll() is None, f"{self._words[0]} has ended"
            assert SystemClock.now() < until, f"{self._words[0]} does not answer"
            SystemClock.sleep(0.02)


@contextlib.contextmanager
def redis_server(*settings: str) -> Iterator[Program]:
    """Start a Redis server with settings, such as `("maxmemory-policy", "allkeys-lru")`."""
    program = find_program(redis.KIND)
    port = free_port()
    words = [f"--{word}" if number % 2 == 0 else word for number, word in enumerate(settings)]
    with tempfile.TemporaryDirectory(prefix="redis") as folder:
        server = Program(
            [
                str(program.path), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                "--appendonly", "no", "--dir", folder, "--requirepass", PASSWORD, *words,
            ],
            port, f"redis://:{QUOTED}@127.0.0.1:{port}/0",
        )  # fmt: skip
        try:
            yield server
        finally:
            server.end()


@contextlib.contextmanager
def postgresql_server() -> Iterator[Program]:
    """Start a PostgreSQL server."""
    program = find_program(postgresql.KIND)
    user = other_user(program)
    folder = Path(tempfile.mkdtemp(prefix="postgresql"))
    if user is not None:
        shutil.chown(folder, user)
    try:
        secret = private_file(folder / "password", f"{PASSWORD}\n", user)
        subprocess.run(
            [
                program.path.with_name("initdb"), "-D", folder / "data", "-U", "postgres",
                "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--auth=scram-sha-256",
                f"--pwfile={secret}",
            ],
            check=True, stdout=subprocess.DEVNULL, user=user, cwd="/",
            extra_groups=[] if user else None,
        )  # fmt: skip
        port = free_port()
        server = Program(
            [
                str(program.path), "-D", str(folder / "data"), "-h", "127.0.0.1", "-p", str(port),
                "-k", str(folder), "-c", "fsync=off",
            ],
            port, f"postgresql://postgres:{QUOTED}@127.0.0.1:{port}/postgres", user,
        )  # fmt: skip
        try:
            _await_database(server.url)
            yield server
        finally:
            server.end()
    finally:
        shutil.rmtree(folder)


def _await_database(url: str) -> None:
    """Wait until a server that accepts connections has started."""
    import psycopg

    until = SystemClock.now() + _LONGEST
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            assert SystemClock.now() < until, "the database does not start"
            SystemClock.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def pgbouncer(server: Program, mode: str) -> Iterator[str]:
    """Start PgBouncer in front of a PostgreSQL server; yield the URL. Skip without PgBouncer."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("there is no program 'pgbouncer'")
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pgbouncer") as folder:
        port = free_port()
        users, settings = Path(folder, "users"), Path(folder, "pgbouncer.ini")
        users.write_text(f'"postgres" "{PASSWORD}"\n')
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {users}\npool_mode = {mode}\n"
        )
        for path in (users, settings, Path(folder)):
            if user is not None:
                shutil.chown(path, user)
        pooling = Program([program, str(settings)], port, server.url, user)
        try:
            yield server.url.replace(f":{server.port}", f":{port}")
        finally:
            pooling.end()


def missing(kind: Kind) -> str:
    """Return why a server cannot be started; "" if it can."""
    try:
        find_program(kind)
    except FileNotFoundError as error:
        return str(error)
    return ""


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
