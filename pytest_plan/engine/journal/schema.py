"""The tables of a journal. Each row has a seal, which proves that this user wrote it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_plan.engine.journal.seal import Key, Seal
from pytest_plan.engine.model.errors import JournalError

FORMAT = 6
APPLICATION = 0x706C616E  # "plan"
_WARNS = (3, 12, 0) <= sys.version_info < (3, 12, 4)  # python/cpython#117995
LOGS = ("-wal", "-shm", "-journal")  # the ends of the names of SQLite's other files
_MORE_COLUMNS = r"(, *[A-Za-z_]+( +(TEXT|INTEGER|REAL|BLOB))?)*"
TABLES = {
    "environment": {"key": "TEXT PRIMARY KEY", "value": "TEXT NOT NULL"},
    "step": {
        "name": "TEXT PRIMARY KEY",
        "folder": "TEXT",
        "number": "INTEGER",
        "needs": "TEXT",
        "after": "TEXT",
        "cleanup_hook": "INTEGER",
        "cleanup_when": "TEXT",
        "cleanup_function": "TEXT",
        "fingerprint": "TEXT",
        "outcome": "TEXT",
        "completed": "INTEGER",
        "log_tail": "TEXT",
        "cleanup": "TEXT",
        "cleanup_error": "TEXT",
        "hook_done": "INTEGER",
        "owners": "INTEGER",
    },
    "undo": {
        "number": "INTEGER PRIMARY KEY",
        "step": "TEXT",
        "hook": "TEXT",
        "label": "TEXT",
        "kind": "TEXT",
        "data": "TEXT",
        "done": "INTEGER",
    },
    "state": {
        "key": "TEXT PRIMARY KEY",
        "value": "TEXT",
        "lost": "TEXT",
        "writer": "TEXT",
        "below": "TEXT",
        "data": "BLOB",
    },
}


def schema() -> Iterator[str]:
    """Yield the SQL statements that create an empty journal."""
    yield f"PRAGMA application_id = {APPLICATION}"
    yield f"PRAGMA user_version = {FORMAT}"
    for table in TABLES:
        yield f"CREATE TABLE {table}({_typed(table)}){_options(table)}"


def _typed(table: str) -> str:
    columns = {**TABLES[table], "seal": "BLOB"}
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())


def _options(table: str) -> str:
    # Most writes to `step` are durable. Without a separate index, each changes one page less.
    return " WITHOUT ROWID" if table == "step" else ""


def create(file: Path, key: Key) -> Seal:
    """Create a journal that contains only its id and its place; return its seal.

    Raises:
        JournalError: it cannot be created.
    """
    journal_id = os.urandom(16).hex()
    seal = key.seal(journal_id)
    # The file has another name until it is complete, so that no process reads it too early.
    unfinished = file.with_name(f"{file.name}.new")
    try:
        # SQLite would apply the log of an earlier journal to the new one.
        logs = [file.with_name(f"{file.name}{suffix}") for suffix in LOGS]
        for left in (*file.parent.glob(f"{unfinished.name}*"), *logs):
            left.unlink(missing_ok=True)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
        os.close(os.open(unfinished, flags, 0o600))
        # Turn on the write-ahead log last: SQLite merges the log when the connection is closed,
        # but does not report a failure to do so.
        with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
            define_seal(connection, seal)
            for sql in ("PRAGMA journal_mode = MEMORY", "BEGIN", *schema()):
                connection.execute(sql)
            facts = {"id": journal_id, "place": place_of(unfinished)}
            for name, value in facts.items():
                execute(connection, insert("environment"), (name, json.dumps(value)))
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
        unfinished.rename(file)
    except (sqlite3.Error, OSError) as error:
        raise JournalError(
            f"the journal {file} cannot be created: {error}; free disk space, make its folder "
            "writable, or set plan_dir to another folder"
        ) from error
    return seal


def write_copy(source: sqlite3.Connection, file: Path, seal: Seal) -> None:
    """Write the journal that a connection has open, even if its file was removed, to a new file.

    Raises:
        OSError, sqlite3.Error: the file cannot be written.
    """
    unfinished = file.with_name(f"{file.name}.new")
    for suffix in ("", *LOGS):
        unfinished.with_name(f"{unfinished.name}{suffix}").unlink(missing_ok=True)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    os.close(os.open(unfinished, flags, 0o600))
    with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
        source.backup(connection)
        connection.execute("PRAGMA journal_mode = MEMORY")
        define_seal(connection, seal)
        place = json.dumps(place_of(unfinished))  # as the file is renamed, its place stays
        execute(connection, replace("environment"), ("place", place))
        connection.execute("PRAGMA journal_mode = WAL")
    for suffix in LOGS:  # SQLite would apply the log of the lost file to the new one
        file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)
    unfinished.replace(file)


def void(connection: sqlite3.Connection) -> None:
    """Remove everything to clean up from a journal that has been written again elsewhere."""
    for table in ("state", "undo", "step"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - ours


def place_of(file: Path) -> list[int]:
    """Return where a journal is: its device and inode, which no copy of it has."""
    status = file.lstat()
    return [status.st_dev, status.st_ino]


def reopen(file: Path, key: Key) -> tuple[Seal, int]:
    """Return the seal of a journal, and the highest number of a step or an undo entry in it.

    Raises:
        JournalError: the journal cannot be opened for writing.
    """
    try:
        with contextlib.closing(connect(file)) as connection:
            seal = key.seal(id_of(connection))
            numbers = "SELECT number FROM step UNION ALL SELECT number FROM undo"
            rows = connection.execute(f"SELECT coalesce(max(number), 0) FROM ({numbers})")  # noqa: S608 - fixed text
            return seal, int(rows.fetchone()[0])
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise JournalError(
            f"the journal {file} cannot be opened for writing: {error}; check the file, or set "
            "plan_dir to another folder"
        ) from error


def connect(file: Path, seal: Seal | None = None) -> sqlite3.Connection:
    """Return a connection whose commits block until they are on disk.

    Any thread may use the connection, but only one at a time. Without a seal, it writes no rows.

    Raises:
        sqlite3.Error: the file cannot be written, or is not a database.
    """
    connection = sqlite3.connect(file, isolation_level=None, timeout=5.0, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if seal is not None:
            define_seal(connection, seal)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def execute(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> None:
    """Execute SQL with numbered parameters, such as `insert` returns.

    Python 3.12.0 to 3.12.3 take them for named parameters, and warn unless they get a mapping.
    """
    named = {str(number): value for number, value in enumerate(values, 1)} if _WARNS else values
    connection.execute(sql, named)


def insert(table: str) -> str:
    """Return the SQL that inserts a row with its seal. Its parameters are the columns."""
    values = ", ".join(f"?{number}" for number, _ in enumerate(TABLES[table], start=1))
    columns = ", ".join(TABLES[table])  # a journal may have more of them
    return f"INSERT INTO {table} ({columns}, seal) VALUES ({values}, seal('{table}', {values}))"  # noqa: S608 - fixed text


def replace(table: str) -> str:
    """Return the SQL that inserts a row with its seal, replacing any row with the same key."""
    return insert(table).replace("INSERT", "INSERT OR REPLACE", 1)


def update(table: str, where: str, **changes: str) -> str:
    """Return the SQL that sets columns to expressions and updates the seal of each row."""
    values = ", ".join(changes.get(name, name) for name in TABLES[table])
    changes["seal"] = f"seal('{table}', {values})"
    sets = ", ".join(f"{name} = {expression}" for name, expression in changes.items())
    return f"UPDATE {table} SET {sets} WHERE {where}"  # noqa: S608 - fixed text


def define_seal(connection: sqlite3.Connection, seal: Seal) -> None:
    """Let the statements of a connection seal rows: `seal(table, column, ...)`."""
    connection.create_function("seal", -1, seal, deterministic=True)


def id_of(connection: sqlite3.Connection) -> str:
    """Return the random id of a journal; raise ValueError if it has none."""
    row = connection.execute("SELECT value FROM environment WHERE key = 'id'").fetchone()
    found = None if row is None else json.loads(row[0])
    if not isinstance(found, str):
        raise ValueError("it has no id")  # noqa: TRY004 - the type is the journal's
    return found


def check_schema(connection: sqlite3.Connection) -> None:
    """Raise ValueError unless a journal has our tables, and nothing that SQLite would execute.

    A table may have more columns, without constraints, as a later version could add them.
    """
    found = connection.execute("SELECT type, name, sql FROM sqlite_master")
    tables = {name: sql for kind, name, sql in found if (kind, sql) != ("index", None)}
    if tables.keys() != TABLES.keys():
        raise ValueError(f"it does not have the tables {', '.join(TABLES)}, or has more")
    for table, sql in tables.items():
        start, end = f"CREATE TABLE {table}({_typed(table)}", f"){_options(table)}"
        more = (sql or "")[len(start) :].removesuffix(end)
        if sql != f"{start}{more}{end}" or not re.fullmatch(_MORE_COLUMNS, more):
            raise ValueError(f"its table {table!r} has another definition")


def is_sealed(connection: sqlite3.Connection, seal: Seal) -> bool:
    """Return whether the id of a journal is sealed, so that the owner of the key has made it."""
    define_seal(connection, seal)
    return _unsealed(connection, "environment", "key = 'id' AND") is None


def check_seals(connection: sqlite3.Connection) -> None:
    """Raise ValueError if the seal of a row does not match its columns."""
    for table in TABLES:
        if _unsealed(connection, table) is not None:
            raise ValueError(f"the table {table!r} has a damaged row: its seal does not match")


def _unsealed(connection: sqlite3.Connection, table: str, where: str = "") -> object:
    sealed = f"seal('{table}', {', '.join(TABLES[table])})"
    sql = f"SELECT 1 FROM {table} WHERE {where} seal IS NOT {sealed} LIMIT 1"  # noqa: S608 - fixed text
    return connection.execute(sql).fetchone()
