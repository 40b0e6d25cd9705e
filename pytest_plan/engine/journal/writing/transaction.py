"""One transaction, and the write-ahead log in which it is written."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pytest_plan.engine.journal.schema import execute

_PADDING = bytes(64 << 10)  # the zeros to append to the write-ahead log at a time

Statement: TypeAlias = tuple[str, Sequence[Any]]
# A function makes the statement when it is executed, so that large values are encoded one by one.
AnyStatement: TypeAlias = "Statement | Callable[[], Statement]"


class PaddedLog:
    """The write-ahead log of a journal, padded with zeros, at which SQLite stops reading.

    A commit that extends the file takes twice as long (ext4). So does a commit after another call
    has read the file's times (Linux 6.13), so this class avoids `stat`, and opens the file once.

    Args:
        path: the log. If it cannot be opened, nothing is padded, and commits only take longer.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._size = 0  # including the padding
        with contextlib.suppress(OSError):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    def pad(self) -> None:
        """Extend the log if the last commit has used the padding up."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # if the disk is full, the next commit reports it
            size = os.lseek(self._descriptor, 0, os.SEEK_END)
            if size != self._size:
                self._size = size + os.write(self._descriptor, _PADDING)

    def sync(self) -> None:
        """Return once all of the log is on the disk.

        Raises:
            OSError: the disk has failed.
        """
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        getattr(os, "fdatasync", os.fsync)(self._descriptor)  # macOS and Windows lack the first

    def close(self) -> None:
        """Close the log; later calls do nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def set_durable(connection: sqlite3.Connection, durable: bool) -> None:
    """Set whether commits return only once they, and all earlier ones, are on the disk.

    Other processes see a commit in any case, and the next durable one takes it along.
    """
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")


def made(statement: AnyStatement) -> Statement:
    """Return a statement; if it is a function that makes it, call the function."""
    return statement() if callable(statement) else statement


def commit(connection: sqlite3.Connection, statements: Sequence[AnyStatement]) -> None:
    """Execute statements as one transaction.

    Raises:
        sqlite3.Error: it failed, and nothing of it was written.
    """
    if connection.in_transaction:  # the last attempt has failed
        connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    for statement in statements:
        _execute(connection, *made(statement))
    connection.execute("COMMIT")


def _execute(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> None:
    try:
        execute(connection, sql, values)
    except UnicodeEncodeError:  # program names and keys are not always valid UTF-8
        execute(connection, sql, [_writable(value) for value in values])


def _writable(value: Any) -> Any:
    """Return the value in a form that SQLite accepts."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
