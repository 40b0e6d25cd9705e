"""The store in a PostgreSQL database, for runs on several machines."""

from __future__ import annotations

import contextlib
import hashlib
import select
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.sharing.errors import ShareError, ShareSetupError
from pytest_plan.sharing.model import Kind, News
from pytest_plan.sharing.rules.record import FORMAT, Moment, Record
from pytest_plan.sharing.stores.calls import Calls, Silence
from pytest_plan.sharing.stores.server import Server
from pytest_plan.sharing.stores.sql import SqlStore, Transaction
from pytest_plan.sharing.stores.statements import TABLES

_SCHEMA = "pytest_plan"
_LONGEST_CALL = 5.0  # seconds that one statement may take
_LONGEST_IDLE = 1.0  # seconds that a client may be idle within a transaction
_KEEPALIVE: dict[str, Any] = {
    "keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}  # fmt: skip
_TO_ALL = 0x706C616E  # the advisory lock under which the tables are created
# `to_regclass` would answer from a cache, also after another run has created the tables.
_HAS_TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = %s AND tablename = 'format'"
_READ_ONLY, _NO_RIGHT = "25006", "42501"
_IDLE = "25P03"  # the server has ended a transaction whose client was stopped


class PostgresqlStore(SqlStore):
    """The store in a PostgreSQL database; see `protocol.Store`.

    Args:
        server: the server.
        patience: the seconds for which a call is repeated while the server does not answer.

    Raises:
        ShareSetupError: the database cannot be used: there is no server, it refuses the user, it is
            read-only, rights are missing, PgBouncer pools transactions, or another version of
            pytest-plan has created the tables.
    """

    locking = " FOR UPDATE"
    skipping = " FOR UPDATE SKIP LOCKED"

    def __init__(self, server: Server, patience: float) -> None:
        super().__init__(Calls(server.label, patience, server.secrets, _is_transient))
        self._url = server.url
        self._timeout = max(1.0, min(_LONGEST_CALL, patience))
        self._lock = threading.Lock()  # guards the connection and its transaction
        self._connection: _Connection | None = None
        try:
            self._connection = self._calls.repeat(self._connect, _is_starting)
            self._refuse_pooling(self._connection)
            self._prepare(self._connection)
        except psycopg.Error as error:
            self.shut()
            raise self._setup_error(error) from None
        except BaseException:
            self.shut()
            raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Return a context manager for a transaction."""
        with self._lock, self._explained():
            connection = self._connected()
            try:
                connection.execute("BEGIN")
                yield _Transaction(connection)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(psycopg.Error):
                    connection.execute("ROLLBACK")
                raise

    def query(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """Return the rows of one statement."""
        with self._lock, self._explained():
            return _Transaction(self._connected()).execute(sql, values)

    def moment(self, tx: Transaction) -> Moment:
        """Return the time of the server."""
        rows = tx.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        now = int(rows[0][0])
        return Moment(now, lambda seat: seat.until > now)

    def announce(
        self, tx: Transaction, name: str, record: Record, keys: Sequence[tuple[Kind, str]]
    ) -> None:
        """Notify the listeners when the transaction is committed."""
        for kind, key in keys:
            tx.execute("SELECT pg_notify(?, ?)", [_channel(name), f"{kind.value}:{key}"])

    def listen(self, name: str) -> PostgresqlListener:
        """Return the notifications of an environment; see `Store.listen`."""
        return self._calls.repeat(lambda: PostgresqlListener(self._url, name, self._calls))

    def shut(self) -> None:
        """Close the connection; see `Store.shut`."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connected(self) -> _Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> _Connection:
        connection = _connect(self._url, self._timeout)
        connection.longest = self._timeout
        longest = str(round(self._timeout * 1000))
        # A client that is stopped within a transaction keeps the row of the environment, so that
        # nobody else can renew a lease: the server ends its transaction.
        connection.execute(
            "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, "
            "false), set_config('idle_in_transaction_session_timeout', %s, false)",
            [longest, longest, str(round(_LONGEST_IDLE * 1000))],
        )
        return connection

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the errors of the server into errors for users."""
        try:
            yield
        except psycopg.Error as error:
            if _is_transient(error):
                raise
            if error.sqlstate in (_READ_ONLY, _NO_RIGHT):
                raise self._setup_error(error) from None
            text = self._calls.clean(str(error))
            raise ShareError(f"{self.server} has refused an operation: {text}") from None

    def _prepare(self, connection: _Connection) -> None:
        """Create the tables, unless they are there, and check the rights."""
        if _value(connection, "SELECT pg_is_in_recovery()"):
            raise ShareSetupError(self._read_only())
        if not _value(connection, _HAS_TABLES, [_SCHEMA]):
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [_TO_ALL])
                if not _value(connection, _HAS_TABLES, [_SCHEMA]):
                    _create(connection)
        found = _value(connection, f"SELECT max(format) FROM {_SCHEMA}.format")  # noqa: S608 - ours
        if found != FORMAT:
            raise ShareSetupError(
                f"{self.server} has the tables of another version of pytest-plan (format {found}, "
                f"this version uses {FORMAT}); use the same version in all runs, another "
                f"database, or drop the schema {_SCHEMA} if no run uses it"
            )
        for table in ("plan_environment", "plan_row", "plan_answer"):
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
                sql = "SELECT has_table_privilege(%s, %s)"
                if not _value(connection, sql, [f"{_SCHEMA}.{table}", right]):
                    raise ShareSetupError(self._no_right(f"{right} on {_SCHEMA}.{table}"))

    def _refuse_pooling(self, connection: _Connection) -> None:
        """Refuse a pool that gives each transaction another connection to the server."""
        pid = _value(connection, "SELECT pg_backend_pid()")
        if pid == connection.info.backend_pid:
            return  # nothing is between us and the server
        with contextlib.closing(self._connect()) as other:
            connection.execute("SELECT set_config('pytest_plan.probe', %s, false)", [str(pid)])
            other.execute("BEGIN")
            other.execute("SELECT 1")  # this takes the connection to the server if it is free
            kept = _value(connection, "SELECT current_setting('pytest_plan.probe', true)")
        if kept != str(pid):
            raise ShareSetupError(
                f"{self.server} is PgBouncer in transaction mode, where notifications are lost; "
                "use the address of PostgreSQL itself, or pool_mode = session"
            )

    def _setup_error(self, error: psycopg.Error) -> ShareSetupError:
        text = self._calls.clean(str(error))
        if error.sqlstate == _READ_ONLY:
            return ShareSetupError(self._read_only())
        if error.sqlstate == _NO_RIGHT:
            return ShareSetupError(self._no_right(text))
        if "authentication failed" in text or "no password supplied" in text:
            cure = "check the user and the password in the URL"
        elif "SSL" in text:
            cure = "check sslmode in the URL, and that the server has TLS"
        elif "does not exist" in text:
            cure = "check the database and the user in the URL"
        else:
            cure = "check the URL, and that the server is running and can be reached from here"
        return ShareSetupError(f"{self.server} cannot be used: {text}; {cure}")

    def _read_only(self) -> str:
        return f"{self.server} is read-only, such as a replica; use the URL of the primary server"

    def _no_right(self, what: str) -> str:
        return (
            f"{self.server} does not give its user the rights that sharing needs: {what}; grant "
            "CREATE on the database, or let an administrator run once with --plan-share and then "
            f"grant USAGE on the schema {_SCHEMA}, and ALL on its tables"
        )


class PostgresqlListener:
    """The notifications of one environment; see `protocol.Listener`.

    Raises:
        psycopg.Error: the server cannot be reached.
    """

    def __init__(self, url: str, name: str, calls: Calls) -> None:
        self._url = url
        self._name = name
        self._silence = Silence(calls)
        self._connection: _Connection | None = self._connect()

    def wait(self, timeout: float) -> News | None:
        """Wait for notifications; see `Listener.wait`."""
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._silence.end()
                return News(is_everything=True)
            found = list(self._connection.notifies(timeout=timeout, stop_after=1))
        except psycopg.Error as error:
            self.close()
            self._silence.bear(error, timeout)
            return None
        if not found:
            return None
        parts = (one.payload.partition(":") for one in found)
        return News(frozenset((Kind(kind), key) for kind, _, key in parts))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> _Connection:
        connection = _connect(self._url, _LONGEST_CALL)
        connection.execute(f'LISTEN "{_channel(self._name)}"')
        connection.longest = None
        return connection


class _Connection(psycopg.Connection[Any]):
    """A connection that is closed if the server does not answer in time.

    Attributes:
        longest: the maximum number of seconds to wait for an answer; None means that the caller
            of the library has a limit of its own, as for notifications.
    """

    longest: float | None = _LONGEST_CALL

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Wait for the answer of the server.

        Raises:
            psycopg.OperationalError: there was none in time.
        """
        if self.longest is None:
            return super().wait(gen, *args, **options)
        poll, file = select.poll(), self.pgconn.socket
        # The server itself gives up a little earlier.
        until = SystemClock.now() + self.longest + 1.0
        try:
            wanted = next(gen)
            while True:
                poll.register(file, _events(wanted))
                left = until - SystemClock.now()
                ready = poll.poll(1000 * left) if left > 0 else []
                if not ready:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {self.longest + 1.0:g}s")
                wanted = gen.send(_ready(ready[0][1], wanted))
        except StopIteration as stop:
            return stop.value
        except BaseException as error:
            if not isinstance(error, psycopg.Error):  # such as a KeyboardInterrupt
                self.pgconn.finish()
            raise


class _Transaction:
    """The statements of a transaction."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Execute a statement and return its rows."""
        cursor = self._connection.execute(_translated(sql), values)
        return cursor.fetchall() if cursor.description else []


def _events(wanted: int) -> int:
    wait = psycopg.waiting.Wait
    reads = select.POLLIN if wanted & wait.R else 0
    return reads | (select.POLLOUT if wanted & wait.W else 0)


def _ready(events: int, wanted: int) -> Any:
    ready = psycopg.waiting.Ready
    broken = events & ~(select.POLLIN | select.POLLOUT)
    reads = ready.R if events & select.POLLIN or (broken and wanted & ready.R) else 0
    writes = ready.W if events & select.POLLOUT or (broken and wanted & ready.W) else 0
    return ready(reads | writes)


def _connect(url: str, timeout: float) -> _Connection:
    return _Connection.connect(
        url, autocommit=True, connect_timeout=max(2, round(timeout)),
        application_name="pytest-plan", **_KEEPALIVE,
    )  # fmt: skip


def _value(connection: _Connection, sql: str, values: Sequence[Any] = ()) -> Any:
    """Return the only value of the only row of a statement."""
    row = connection.execute(sql, values).fetchone()
    return None if row is None else row[0]


def _create(connection: _Connection) -> None:
    exists = "SELECT 1 FROM pg_namespace WHERE nspname = %s"  # an administrator may have created it
    if not connection.execute(exists, [_SCHEMA]).fetchone():
        connection.execute(f"CREATE SCHEMA {_SCHEMA}")
    for sql in TABLES:
        connection.execute(_translated(sql))
    connection.execute(f"CREATE TABLE {_SCHEMA}.format (format INTEGER NOT NULL)")
    connection.execute(f"INSERT INTO {_SCHEMA}.format VALUES ({FORMAT})")  # noqa: S608 - ours


def _translated(sql: str) -> str:
    in_schema = sql.replace(" plan_", f" {_SCHEMA}.plan_").replace("?", "%s")
    return in_schema.replace(f"INDEX {_SCHEMA}.", "INDEX ")


def _channel(name: str) -> str:
    """Return the channel of an environment; PostgreSQL allows names of 63 bytes."""
    return f"pytest_plan_{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"


def _is_starting(error: Exception) -> bool:
    return isinstance(error, psycopg.OperationalError) and "database system is" in str(error)


def _is_transient(error: Exception) -> bool:
    if not isinstance(error, psycopg.Error):
        return False
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or (
        error.sqlstate == _IDLE
    )
