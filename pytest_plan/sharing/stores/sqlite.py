"""The store of one machine: an SQLite database in the plan's folder.

It has no leases. A member lives as long as its process holds the lock on a file, so that a stopped
process lives, and a killed one does not, without any clock.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_plan.engine.environments.lock import Flock, LibraryLock, file_lock
from pytest_plan.engine.environments.private import make_private
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.identity import Owner
from pytest_plan.sharing.errors import ShareError, ShareSetupError, SilentError
from pytest_plan.sharing.model import (
    ENVIRONMENT,
    Access,
    EnvironmentId,
    Joined,
    Joining,
    Kind,
    Member,
    News,
    View,
)
from pytest_plan.sharing.rules.record import FORMAT, Moment, Record, Seat
from pytest_plan.sharing.stores.calls import Calls
from pytest_plan.sharing.stores.sql import SqlStore, Transaction
from pytest_plan.sharing.stores.statements import PUT, TABLES

FOLDER = "shared"  # in `plan_dir`
FILE = "store.sqlite"
_MEMBERS = "members"  # the folder with the locked files
_APPLICATION = 0x706C7368  # "plsh"
_POLL = 0.02  # seconds between two looks of a listener
_BUSY = 1.0  # seconds for which SQLite itself waits for another process
_TRIES = 100  # another process may look at a file just when it is locked


class SqliteStore(SqlStore):
    """The store of one machine; see `protocol.Store`. `shut` ends the lives of its members.

    Args:
        plan_dir: the folder in which the folder of the store is.
        patience: the seconds for which a call waits for other processes.

    Raises:
        ShareSetupError: the database cannot be used, or another version has made it.
    """

    def __init__(self, plan_dir: Path, patience: float) -> None:
        self._folder = plan_dir / FOLDER
        self._file = self._folder / FILE
        super().__init__(Calls(str(self._file), patience, (), _is_busy))
        self._lock = threading.Lock()  # guards the connection and its transaction
        self._connection: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None
        self._held: dict[str, Flock | LibraryLock] = {}
        self._calls.repeat(self._open)

    def join(self, name: str, joining: Joining, *, write: str = "") -> Joined:
        """Join an environment, or begin it; see `Store.join`."""
        self._live(joining.member.id)
        return super().join(name, joining, write=write)

    def claim(self, environment: EnvironmentId, member: Member, *, write: str = "") -> View:
        """Take over a lost environment; see `Store.claim`."""
        self._live(member.id)
        return super().claim(environment, member, write=write)

    def leave(self, access: Access, *, failed: bool, write: str = "") -> View:
        """Leave an environment; see `Store.leave`."""
        view = super().leave(access, failed=failed, write=write)
        if access.member not in {one.id for one in view.members}:
            self._end(access.member)
        return view

    def done(self, access: Access, *, write: str = "") -> None:
        """End an environment; see `Store.done`."""
        super().done(access, write=write)
        self._end(access.member)
        self._calls.repeat(self._sweep)

    def listen(self, name: str) -> SqliteListener:
        """Return the notifications of an environment; see `Store.listen`."""
        return SqliteListener(self._file, name)

    def shut(self) -> None:
        """Close the connection; see `Store.shut`."""
        for lock in self._held.values():
            lock.release()  # its file stays: a process without a file would be taken to live
        self._held.clear()
        with self._lock:
            self._disconnect()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Return a context manager for a transaction, which waits for that of another process."""
        with self._lock, self._explained():
            tx = _Transaction(self._connected())
            tx.execute("BEGIN IMMEDIATE")
            try:
                yield tx
                tx.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    tx.execute("ROLLBACK")
                raise

    def query(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """Return the rows of one statement."""
        with self._lock, self._explained():
            return _Transaction(self._connected()).execute(sql, values)

    def moment(self, tx: Transaction) -> Moment:
        """Return the time of this machine, with which only the age of marks is measured."""
        return Moment(round(SystemClock.wall() * 1000), self._lives)

    def announce(
        self, tx: Transaction, name: str, record: Record, keys: Sequence[tuple[Kind, str]]
    ) -> None:
        """Let the listeners, which look at the versions, find notices."""
        for kind, key in keys:
            if kind is Kind.NOTICE:
                record.version += 1
                if not record.done_at:
                    tx.execute(PUT, [name, kind.value, key, record.version, None])

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the errors of SQLite into errors for users, but not that it is busy."""
        try:
            yield
        except sqlite3.Error as error:
            if _is_busy(error):
                raise
            raise ShareError(
                f"{self.server} cannot be used: {error}; free disk space, or set plan_dir to "
                "another folder"
            ) from error

    def _sweep(self) -> None:
        """Remove the files of members that have ended."""
        with self.transaction():  # nobody else looks at the files now
            for file in (self._folder / _MEMBERS).iterdir():
                if not file_lock(file).is_taken():
                    file.unlink(missing_ok=True)

    def _live(self, member: str) -> None:
        """Hold the lock that shows that a member lives."""
        if member in self._held:
            return
        lock = file_lock(self._file_of(member))
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                if lock.acquire():
                    self._held[member] = lock
                    return
            SystemClock.sleep(_POLL)
        raise ShareError(f"{self._file_of(member)} cannot be locked; is a member id used twice?")

    def _end(self, member: str) -> None:
        lock = self._held.pop(member, None)
        if lock is not None:
            lock.release()
            self._file_of(member).unlink(missing_ok=True)

    def _file_of(self, member: str) -> Path:
        return self._folder / _MEMBERS / member

    def _lives(self, seat: Seat) -> bool:
        who = seat.who
        lock = self._held.get(who.id)
        if lock is not None and lock.is_held:
            return True
        file = self._file_of(who.id)
        if file.exists():
            return file_lock(file).is_taken()
        # Somebody has removed the file. A process that cannot be seen from here has ended.
        owner = Owner(who.pid, who.birth, who.boot, who.host, who.namespace)
        return not owner.is_elsewhere and owner.may_live

    def _connected(self) -> sqlite3.Connection:
        """Return the connection, to a new database if the file was removed."""
        if self._connection is None or _place_of(self._file) != self._place:
            self._disconnect()
            self._connect()
        assert self._connection is not None
        return self._connection

    def _open(self) -> None:
        with self._lock:
            self._connected()

    def _connect(self) -> None:
        try:
            make_private(self._folder / _MEMBERS, self._folder.parent)
            os.close(os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            self._connection = _connect(self._file)
            _prepare(self._connection, self.server)
        except (OSError, JournalError) as error:
            cure = "" if "set plan_dir" in str(error) else "; set plan_dir to another folder"
            raise ShareSetupError(f"{self.server} cannot be used: {error}{cure}") from error
        except sqlite3.DatabaseError as error:
            self._disconnect()
            if _is_busy(error):
                raise
            raise ShareSetupError(
                f"{self.server} cannot be used: {error}; remove the file, or set plan_dir to "
                "another folder"
            ) from error
        self._place = _place_of(self._file)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class SqliteListener:
    """The notifications of one environment; see `protocol.Listener`. It looks every 20 ms."""

    def __init__(self, file: Path, name: str) -> None:
        self._file = file
        self._name = name
        self._connection = _connect(file)
        self._place = _place_of(file)
        self._seen = self._look()

    def wait(self, timeout: float) -> News | None:
        """Wait for notifications; see `Listener.wait`."""
        until = SystemClock.now() + timeout
        while True:
            news = self._news()
            left = until - SystemClock.now()
            if news is not None or left <= 0:
                return news
            SystemClock.sleep(min(_POLL, left))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _news(self) -> News | None:
        try:
            if _place_of(self._file) != self._place:
                self.close()
                self._connection = _connect(self._file)
                self._place = _place_of(self._file)
            seen = self._look()
        except sqlite3.Error as error:
            raise SilentError(str(self._file), _BUSY, str(error)) from error
        old, self._seen = self._seen, seen
        if seen == old:
            return None
        if seen[0] != old[0]:
            return News(is_everything=True)
        sql = "SELECT kind, key FROM plan_row WHERE name = ? AND version > ?"
        rows = self._connection.execute(sql, (self._name, old[1])).fetchall()
        return News(frozenset((Kind(kind), key) for kind, key in rows) or frozenset({ENVIRONMENT}))

    def _look(self) -> tuple[str, int]:
        sql = "SELECT id, version FROM plan_environment WHERE name = ?"
        row = self._connection.execute(sql, (self._name,)).fetchone()
        return ("", 0) if row is None else (row[0], row[1])


class _Transaction:
    """The statements of a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Execute a statement and return its rows."""
        return self._connection.execute(sql, values).fetchall()


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=_BUSY, isolation_level=None, check_same_thread=False)
    # What is begun must be on the disk before a step runs, as in the journal.
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _prepare(connection: sqlite3.Connection, server: str) -> None:
    """Create the tables, unless they are there."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if (application, found) == (0, 0):
            for sql in TABLES:
                connection.execute(sql)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        elif (application, found) != (_APPLICATION, FORMAT):
            raise ShareSetupError(
                f"{server} was made by another version of pytest-plan (format {found}, this "
                f"version uses {FORMAT}); use the same version in all runs, or another plan_dir"
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _place_of(file: Path) -> tuple[int, int] | None:
    try:
        status = file.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_busy(error: Exception) -> bool:
    if not isinstance(error, sqlite3.OperationalError):
        return False
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )
