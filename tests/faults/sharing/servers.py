"""Redis and PostgreSQL on a network, which restart with or without what was written to them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.steps.servers import postgresql, redis
from pytest_plan.steps.servers.programs import find_program, other_user, private_file
from tests.namespaces import HUB, Network
from tests.sharing.servers import PASSWORD, QUOTED

KINDS = ("redis", "postgresql")
_LONGEST = 60.0  # seconds until a server answers


def missing_server(kind: str) -> str:
    """Return why a server of a kind cannot be started; "" if it can."""
    try:
        find_program(redis.KIND if kind == "redis" else postgresql.KIND)
    except FileNotFoundError as error:
        return str(error)
    library = {"redis": "redis", "postgresql": "psycopg"}[kind]
    return "" if find_spec(library) else f"there is no library {library!r}"


class Server(Protocol):
    """A kind of server.

    Attributes:
        url: the URL for the machines of the network.
        words: its command.
        data: the folder of its data.
    """

    url: str
    words: list[str]
    data: Path

    @property
    def user(self) -> str | None:
        """The user that it runs as; None means that of this process."""

    def look(self) -> Any:
        """Return a connection from this process, which no cut link concerns."""

    def left(self, name: str) -> list[str]:
        """Return what is left of an environment, but its mark and the answers to its writes."""


class Redis:
    """Redis, which has written each change to its file before it answers; see `Server`."""

    user: str | None = None
    url = f"redis://:{QUOTED}@{HUB}:6379/0"

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        self._socket = folder / "socket"
        self.words = [
            str(find_program(redis.KIND).path), "--port", "6379", "--bind", HUB, "--save", "",
            "--unixsocket", str(self._socket), "--dir", str(self.data), "--requirepass", PASSWORD,
            # Without fsync, which only matters if the machine dies, and not the process.
            "--appendonly", "yes", "--appendfsync", "no",
        ]  # fmt: skip

    def look(self) -> Any:
        """Return a connection; see `Server.look`."""
        import redis as library

        client = library.Redis(
            unix_socket_path=str(self._socket), password=PASSWORD, decode_responses=True
        )
        with contextlib.suppress(library.BusyLoadingError):
            client.ping()
            return client
        raise ConnectionError

    def left(self, name: str) -> list[str]:
        """Return the keys of an environment; see `Server.left`."""
        with self.look() as client:
            keys = [key.rpartition("}:")[2] for key in client.keys(f"pytest-plan:{{{name}}}:*")]
            done = client.hget(f"pytest-plan:{{{name}}}:environment", "done")
        found = [key for key in keys if key != "environment" and not key.startswith("answer:")]
        return found if done != "0" else [*found, "environment"]


class Postgresql:
    """PostgreSQL; see `Server`."""

    url = f"postgresql://postgres:{QUOTED}@{HUB}:5432/postgres"

    def __init__(self, folder: Path) -> None:
        program = find_program(postgresql.KIND)
        self.user = other_user(program)
        self.data, self._folder = folder / "data", folder
        if self.user is not None:
            shutil.chown(folder, self.user)
        secret = private_file(folder / "password", f"{PASSWORD}\n", self.user)
        words: list[str | Path] = [
            program.path.with_name("initdb"), "-D", self.data, "-U", "postgres",
            "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--auth=scram-sha-256",
            f"--pwfile={secret}",
        ]  # fmt: skip
        subprocess.run(
            words, check=True, stdout=subprocess.DEVNULL, user=self.user, cwd="/",
            extra_groups=[] if self.user else None,
        )  # fmt: skip
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")
        self.words = [
            str(program.path), "-D", str(self.data), "-h", HUB, "-p", "5432", "-k", str(folder),
            # As with Redis, no machine dies.
            "-c", "fsync=off",
        ]  # fmt: skip

    def look(self) -> Any:
        """Return a connection; see `Server.look`."""
        import psycopg

        try:
            return psycopg.connect(
                host=str(self._folder), port=5432, user="postgres", password=PASSWORD,
                dbname="postgres", autocommit=True,
            )  # fmt: skip
        except psycopg.OperationalError as error:
            raise ConnectionError from error

    def left(self, name: str) -> list[str]:
        """Return the rows of an environment; see `Server.left`."""
        with self.look() as connection:
            if connection.execute("SELECT to_regclass('pytest_plan.plan_row')").fetchone() == (
                None,
            ):
                return []  # all data was lost, and nobody has come since
            sql = "SELECT kind, key FROM pytest_plan.plan_row WHERE name = %s"
            rows = [" ".join(row) for row in connection.execute(sql, [name]).fetchall()]
            sql = "SELECT done_at FROM pytest_plan.plan_environment WHERE name = %s"
            done = connection.execute(sql, [name]).fetchall()
        return rows if done != [(0,)] else [*rows, "environment"]


class Running:
    """A server on the hub of a network.

    Attributes:
        server: its kind.
    """

    def __init__(self, server: Server, network: Network) -> None:
        self.server = server
        self._network = network
        words = network.argv()
        if server.user is not None:
            import pwd  # Windows has none, where no test gets here

            who = pwd.getpwnam(server.user)
            words += ["--setgid", str(who.pw_gid), "--setuid", str(who.pw_uid)]
        self._words = [*words, *server.words]
        self._process = self._start()
        self._copy = server.data.with_name("copy")

    def restart(self) -> None:
        """Kill it, and start it with all that it has answered to. Keep a copy of its data."""
        self._kill()
        shutil.rmtree(self._copy, ignore_errors=True)
        _copy(self.server.data, self._copy)
        self._process = self._start()

    def lose(self, *, everything: bool) -> tuple[float, float]:
        """Kill it, and start it with an older copy of its data; return when that began and ended.

        Args:
            everything: whether there is no copy, as if it had never been used.
        """
        begun = SystemClock.now()
        self._kill()
        shutil.rmtree(self.server.data)
        copy = self._copy if not everything and self._copy.exists() else self._pristine
        _copy(copy, self.server.data)
        self._process = self._start()
        return begun, SystemClock.now()

    def pause(self) -> None:
        """Stop it for now; it keeps its connections."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """End it."""
        self._kill()

    @property
    def _pristine(self) -> Path:
        return self.server.data.with_name("pristine")

    def _kill(self) -> None:
        while self._network.processes():  # it may fork meanwhile
            self._signal(signal.SIGKILL)
        self._process.wait(_LONGEST)

    def _signal(self, number: int) -> None:
        """Send a signal to its processes, some of which have sessions of their own."""
        for pid in self._network.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _start(self) -> subprocess.Popen[bytes]:
        if not self._pristine.exists():
            _copy(self.server.data, self._pristine)
        process = subprocess.Popen(
            self._words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
        )  # fmt: skip
        until = SystemClock.now() + _LONGEST
        while True:
            with contextlib.suppress(OSError), self.server.look():
                return process
            assert process.poll() is None, f"{self.server.words[0]} has ended"
            assert SystemClock.now() < until, f"{self.server.words[0]} does not answer"
            SystemClock.sleep(0.02)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)


@contextlib.contextmanager
def running(kind: str, network: Network) -> Iterator[Running]:
    """Start a server of a kind on the hub of a network.

    Args:
        kind: one of `KINDS`.
        network: the network.
    """
    folder = Path(tempfile.mkdtemp(prefix=kind))
    try:
        server: Server = Redis(folder) if kind == "redis" else Postgresql(folder)
        found = Running(server, network)
        try:
            yield found
        finally:
            found.end()
    finally:
        shutil.rmtree(folder)
