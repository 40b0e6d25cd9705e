"""Brings what is noted to the disk, one transaction at a time, for all threads.

Who waits for the disk writes, and takes along what others have noted: to let another thread do it
and to be woken by it costs as much as the write. What nobody waits for is written by a thread of
the writer's, a moment later.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pytest_plan.engine.journal.schema import connect
from pytest_plan.engine.model.errors import JournalError

_LINGER = 0.002  # seconds that what nobody waits for may wait for company
_MOST = 1_000  # requests in one transaction
_LOOK = 1.0  # seconds after which who waits looks whether the thread is still there
_ROOM = bytes(64 << 10)  # what the log is made longer by at a time

Statement: TypeAlias = tuple[str, Sequence[Any]]


class Request(NamedTuple):
    """Statements to write; who waits for them hears their end by `answer`."""

    statements: Callable[[], Sequence[Statement]]
    answer: queue.SimpleQueue[JournalError | None] | None = None


class _Ring(enum.Enum):
    """What the thread is woken for."""

    NOTED = enum.auto()  # something that nobody waits for
    AWAITED = enum.auto()
    END = enum.auto()


class Writer:
    """Writes into one journal.

    Args:
        file: the journal.

    Attributes:
        failure: why nothing can be written any more; None while it can.

    Raises:
        JournalError: the system gives no thread.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._path = os.fspath(file)
        self._inode = os.stat(self._path).st_ino
        self._pid = os.getpid()
        self._requests: collections.deque[Request] = collections.deque()
        self._bell: queue.SimpleQueue[_Ring] = queue.SimpleQueue()
        self._is_idle = False  # whether the thread must be woken; it looks once more when it is set
        # Everything below changes only under _writing, which is held for one transaction. It is
        # never taken on the main thread, where a signal handler may raise in the middle of one.
        self._writing = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._transactions = 0
        self._log: int | None = None  # the write-ahead log
        self._log_size = 0  # with its room
        self._is_closed = False
        self.failure: JournalError | None = None
        self._thread = threading.Thread(target=self._serve, name="plan-journal", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise JournalError(
                f"the journal {file} cannot be written: {error}; nothing was begun: raise the "
                "system's limit of processes (ulimit -u) or of memory (ulimit -v)"
            ) from error

    def note(self, statements: Callable[[], Sequence[Statement]]) -> None:
        """Write statements soon; the function is called when they are written."""
        if self._put(Request(statements)) and self._is_idle:
            self._bell.put(_Ring.NOTED)

    def durably(self, statements: Sequence[Statement]) -> None:
        """Return when the statements, and all that was noted before, are on the disk.

        Raises:
            JournalError: they cannot be written, or the writer is closed.
        """
        answer: queue.SimpleQueue[JournalError | None] = queue.SimpleQueue()
        if not self._put(Request(lambda: statements, answer)):
            return
        if threading.current_thread() is threading.main_thread():
            self._bell.put(_Ring.AWAITED)
        else:
            self._write_until(lambda: not answer.empty())
        if (error := self._heard(answer)) is not None:
            raise error

    def close(self) -> None:
        """Write what is noted, and let go of the file."""
        if os.getpid() == self._pid:
            self._bell.put(_Ring.END)
            self._thread.join()

    def _put(self, request: Request) -> bool:
        # In a child that a step has forked there is no thread, and nothing of it is ours to note.
        if os.getpid() != self._pid:
            return False
        self._requests.append(request)
        return True

    def _heard(self, answer: queue.SimpleQueue[JournalError | None]) -> JournalError | None:
        while True:
            try:
                return answer.get(timeout=_LOOK)
            except queue.Empty:
                if not self._thread.is_alive() and answer.empty():
                    return self._closed_error()

    def _serve(self) -> None:
        """Write what nobody else does, until the end."""
        try:
            while self._is_called():
                self._write_until(lambda: not self._requests)
        finally:
            self._end()

    def _is_called(self) -> bool:
        """Wait until there is something that no other thread is about to write; False: the end."""
        self._is_idle = True
        ring = _Ring.NOTED if self._requests else self._bell.get()
        self._is_idle = False
        while ring is _Ring.NOTED:
            transactions = self._transactions
            try:
                ring = self._bell.get(timeout=_LINGER)
            except queue.Empty:
                if transactions == self._transactions:
                    break  # else it has been taken along, and what came since is younger
        return ring is not _Ring.END

    def _write_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            with self._writing:
                if not is_done():  # else whoever had the lock has written it
                    self._write_batch()

    def _write_batch(self) -> None:
        batch = self._next_batch()
        if self._is_closed:
            self._refuse(batch, self._closed_error())
            return
        if batch and self.failure is None:
            try:
                self._write(self._opened(), batch)
            except BaseException as error:  # whatever it is: nobody may wait for ever
                self.failure = self._failed(error)
        if self.failure is not None:
            self._refuse(batch, self.failure)

    def _next_batch(self) -> list[Request]:
        batch: list[Request] = []
        while self._requests and len(batch) < _MOST:
            batch.append(self._requests[0])  # may find no memory: then it is still there
            self._requests.popleft()
        return batch

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._file)
            with contextlib.suppress(OSError):  # commits take longer without it
                self._log = os.open(f"{self._path}-wal", os.O_WRONLY | os.O_APPEND)
        return self._connection

    def _write(self, connection: sqlite3.Connection, batch: Sequence[Request]) -> None:
        self._transactions += 1
        connection.execute("BEGIN IMMEDIATE")
        for request in batch:
            for statement in request.statements():
                _execute(connection, *statement)
        connection.execute("COMMIT")
        if os.stat(self._path).st_ino != self._inode:
            raise OSError(f"{self._file} is not the file any more that it was")
        for request in batch:
            if request.answer is not None:
                request.answer.put(None)
        self._make_room()

    def _make_room(self) -> None:
        """Keep the write-ahead log longer than what is in it; SQLite ends at the first zeros."""
        if self._log is None:
            return
        # A commit that makes the file longer takes twice as long (ext4). So does one after the
        # file was asked for its times (Linux 6.13, multigrain timestamps): no stat, no `open`.
        with contextlib.suppress(OSError):  # on a full disk the next commit says so
            size = os.lseek(self._log, 0, os.SEEK_END)
            if size != self._log_size:
                self._log_size = size + os.write(self._log, _ROOM)

    def _refuse(self, batch: Sequence[Request], failure: JournalError) -> None:
        for request in batch:
            if request.answer is not None:
                request.answer.put(failure)

    def _failed(self, error: BaseException) -> JournalError:
        return JournalError(
            f"the journal {self._file} cannot be written: {str(error) or type(error).__name__}; "
            "nothing more is begun, and what has begun is cleaned up: free the disk, or set "
            "plan_dir to another folder"
        )

    def _closed_error(self) -> JournalError:
        return JournalError(f"the journal {self._file} is closed: the run is over")

    def _end(self) -> None:
        with self._writing:
            while self._requests:
                self._write_batch()
            self._is_closed = True
            if self._log is not None:
                os.close(self._log)
            if self._connection is not None:
                self._connection.close()


def _execute(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> None:
    try:
        connection.execute(sql, values)
    except UnicodeEncodeError:  # names of programs and keys may be no UTF-8
        connection.execute(sql, [_writable(value) for value in values])


def _writable(value: Any) -> Any:
    """Return the value as SQLite can take it."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
