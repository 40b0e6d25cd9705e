"""The tables of a journal. Each row has a seal, a checksum that detects changes.

SQLite has checksums for its write-ahead log, but not for its database file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_plan.engine.model.errors import JournalError

FORMAT = 3
APPLICATION = 0x706C616E  # "plan"
TABLES = {
    "environment": {"key": "TEXT PRIMARY KEY", "value": "TEXT NOT NULL"},
    "step": {
        "name": "TEXT PRIMARY KEY",
        "number": "INTEGER",
        "needs": "TEXT",
        "after": "TEXT",
        "cleanup_hook": "INTEGER",
        "cleanup_when": "TEXT",
        "fingerprint": "TEXT",
        "outcome": "TEXT",
        "completed": "INTEGER",
        "log_tail": "TEXT",
        "cleanup": "TEXT",
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
    "state": {"key": "TEXT PRIMARY KEY", "value": "TEXT", "lost": "TEXT"},
}


def schema() -> Iterator[str]:
    """Yield the SQL statements that create an empty journal."""
    yield f"PRAGMA application_id = {APPLICATION}"
    yield f"PRAGMA user_version = {FORMAT}"
    for table, columns in TABLES.items():
        typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        # Most writes to `step` are durable. Without a separate index, each changes one page less.
        how = " WITHOUT ROWID" if table == "step" else ""
        yield f"CREATE TABLE {table}({typed}, seal INTEGER){how}"


def create(file: Path) -> None:
    """Create an empty journal.

    Raises:
        JournalError: it cannot be created.
    """
    # The file has another name until it is complete, so that no process reads it too early.
    unfinished = file.with_name(f"{file.name}.new")
    try:
        for left in file.parent.glob(f"{unfinished.name}*"):
            left.unlink()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
        os.close(os.open(unfinished, flags, 0o600))
        # Turn on the write-ahead log last: SQLite merges the log when the connection is closed,
        # but does not report a failure to do so.
        with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
            for sql in ("PRAGMA journal_mode = MEMORY", "BEGIN", *schema(), "COMMIT"):
                connection.execute(sql)
            connection.execute("PRAGMA journal_mode = WAL")
        unfinished.rename(file)
    except (sqlite3.Error, OSError) as error:
        raise JournalError(
            f"the journal {file} cannot be created: {error}; free disk space, make its folder "
            "writable, or set plan_dir to another folder"
        ) from error


def last_number(file: Path) -> int:
    """Return the highest number of a step or an undo entry in a journal; 0 if it is empty.

    Raises:
        JournalError: the journal cannot be opened for writing.
    """
    try:
        with contextlib.closing(connect(file)) as connection:
            numbers = "SELECT number FROM step UNION ALL SELECT number FROM undo"
            rows = connection.execute(f"SELECT coalesce(max(number), 0) FROM ({numbers})")  # noqa: S608 - fixed text
            return int(rows.fetchone()[0])
    except sqlite3.Error as error:
        raise JournalError(
            f"the journal {file} cannot be opened for writing: {error}; check the file, or set "
            "plan_dir to another folder"
        ) from error


def connect(file: Path) -> sqlite3.Connection:
    """Return a connection whose commits block until they are on disk.

    Any thread may use the connection, but only one at a time.

    Raises:
        sqlite3.Error: the file cannot be written, or is not a database.
    """
    connection = sqlite3.connect(file, isolation_level=None, timeout=5.0, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _define_seal(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def insert(table: str) -> str:
    """Return the SQL that inserts a row with its seal. Its parameters are the columns."""
    values = ", ".join(f"?{number}" for number, _ in enumerate(TABLES[table], start=1))
    return f"INSERT INTO {table} VALUES ({values}, seal({values}))"  # noqa: S608 - fixed text


def replace(table: str) -> str:
    """Return the SQL that inserts a row with its seal, replacing any row with the same key."""
    return insert(table).replace("INSERT", "INSERT OR REPLACE", 1)


def update(table: str, where: str, **changes: str) -> str:
    """Return the SQL that sets columns to expressions and updates the seal of each row."""
    changes["seal"] = f"seal({', '.join(changes.get(name, name) for name in TABLES[table])})"
    sets = ", ".join(f"{name} = {expression}" for name, expression in changes.items())
    return f"UPDATE {table} SET {sets} WHERE {where}"  # noqa: S608 - fixed text


def check_seals(connection: sqlite3.Connection) -> None:
    """Raise ValueError if the seal of a row does not match its columns."""
    _define_seal(connection)
    for table, columns in TABLES.items():
        broken = f"SELECT 1 FROM {table} WHERE seal IS NOT seal({', '.join(columns)}) LIMIT 1"  # noqa: S608 - fixed text
        if connection.execute(broken).fetchone() is not None:
            raise ValueError(f"the table {table!r} has a damaged row: its checksum does not match")


def _define_seal(connection: sqlite3.Connection) -> None:
    connection.create_function("seal", -1, _seal, deterministic=True)


def _seal(*values: Any) -> int:
    """Return a checksum of the values and types in a row."""
    return zlib.crc32(ascii(values).encode())
