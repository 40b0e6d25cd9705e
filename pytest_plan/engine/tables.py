"""The tables of a journal, and the seal that tells whether a row is as it was written.

SQLite has checksums for its write-ahead log, none for the file that the log is merged into.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMAT = 2
APPLICATION = 0x706C616E  # "plan"
TABLES = {
    "environment": {"key": "TEXT PRIMARY KEY", "value": "TEXT NOT NULL"},
    "step": {
        "name": "TEXT PRIMARY KEY",
        "needs": "TEXT",
        "after": "TEXT",
        "cleanup_hook": "INTEGER",
        "cleanup_when": "TEXT",
        "fingerprint": "TEXT",
        "outcome": "TEXT",
        "completed": "INTEGER DEFAULT 0",
        "log_tail": "TEXT",
        "cleanup": "TEXT DEFAULT 'none'",
        "hook_done": "INTEGER DEFAULT 0",
        "owners": "INTEGER DEFAULT 0",
    },
    "undo": {
        "number": "INTEGER PRIMARY KEY",
        "step": "TEXT",
        "hook": "TEXT",
        "label": "TEXT",
        "kind": "TEXT",
        "data": "TEXT",
        "done": "INTEGER DEFAULT 0",
    },
    "state": {"key": "TEXT PRIMARY KEY", "value": "TEXT", "lost": "TEXT"},
}


def schema() -> Iterator[str]:
    """Yield the statements that make an empty journal."""
    yield f"PRAGMA application_id = {APPLICATION}"
    yield f"PRAGMA user_version = {FORMAT}"
    for table, columns in TABLES.items():
        typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        yield f"CREATE TABLE {table}({typed}, seal INTEGER)"


def connect(file: Path) -> sqlite3.Connection:
    """Return a connection that seals what it writes; commits are on the disk when they return.

    Raises:
        sqlite3.Error: the file cannot be written, or is no journal.
    """
    connection = sqlite3.connect(file, isolation_level=None, timeout=5.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _seal_rows(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def check_seals(connection: sqlite3.Connection) -> None:
    """Raise ValueError when a row is not as it was written."""
    _define_seal(connection)
    for table, columns in TABLES.items():
        broken = f"SELECT 1 FROM {table} WHERE seal IS NOT seal({', '.join(columns)}) LIMIT 1"  # noqa: S608 - ours
        if connection.execute(broken).fetchone() is not None:
            raise ValueError(f"a row of the table {table!r} is not as it was written")


def _seal_rows(connection: sqlite3.Connection) -> None:
    # Temporary triggers: other programs need not know `seal` to read the file, or to mend it.
    connection.execute("PRAGMA temp_store = MEMORY")
    _define_seal(connection)
    for table, columns in TABLES.items():
        names = ", ".join(columns)
        for when, event in (("insert", "INSERT"), ("update", f"UPDATE OF {names}")):
            sealing = f"UPDATE {table} SET seal = seal({names}) WHERE rowid = NEW.rowid"  # noqa: S608 - ours
            connection.execute(
                f"CREATE TEMP TRIGGER seal_{table}_{when} AFTER {event} ON {table}"
                f" BEGIN {sealing}; END"
            )


def _define_seal(connection: sqlite3.Connection) -> None:
    connection.create_function("seal", -1, _seal, deterministic=True)


def _seal(*values: Any) -> int:
    """Return a checksum of the values of a row, their types included."""
    return zlib.crc32(ascii(values).encode())
