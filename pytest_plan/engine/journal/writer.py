"""Writes the records of all threads to the disk, one transaction at a time.

The writer uses group commit. A thread that needs durability writes the batch itself, including the
records that other threads have queued, because handing the batch to another thread would take as
long as writing it. The writer's own thread later writes the records that no thread waits for.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pytest_plan.engine.journal.schema import LOGS, connect, execute, void, write_copy
from pytest_plan.engine.journal.seal import Seal
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.copies import getpid

_LINGER = 0.002  # how many seconds to hold records that no thread waits for
_MAX_BATCH = 1_000  # maximum number of requests in one transaction
_CHECK_INTERVAL = 1.0  # seconds between checks that the journal and the writer's thread are there
_TRIES = 5  # how often to try to write a lost journal again
_PAUSE = 0.05  # seconds between two of these attempts
_PADDING = bytes(64 << 10)  # the zeros to append to the write-ahead log at a time

Statement: TypeAlias = tuple[str, Sequence[Any]]


class Request(NamedTuple):
    """Statements to write.

    Attributes:
        statements: a function that returns the statements; it is called when they are written.
        answer: the queue that receives None once the statements are on disk, or the error if
            they cannot be written; None means that no thread waits for them.
    """

    statements: Callable[[], Sequence[Statement]]
    answer: queue.SimpleQueue[JournalError | None] | None = None


class _Wakeup(enum.Enum):
    """The reasons for waking the writer's thread."""

    QUEUED = enum.auto()  # a request that no thread waits for
    AWAITED = enum.auto()  # a request that the main thread waits for
    END = enum.auto()


class Place:
    """Where a journal is. This base class does not replace a journal that is lost."""

    def is_intact(self) -> bool:
        """Return whether nobody has changed the folder of the journal, or anything else in it."""
        return True

    def restore(self) -> Path:
        """Repair the folder, and return the path that the journal must have.

        Raises:
            OSError, JournalError: the folder cannot be repaired.
        """
        raise OSError("it was removed or replaced")

    def written_again(self, file: Path) -> None:
        """Handle that the journal was lost, and that it has been written again as `file`."""


class Writer:
    """Writes to one journal.

    Args:
        file: the database file of the journal.
        seal: makes the seals of its rows.
        place: repairs the place of the journal if it is lost.

    Attributes:
        failure: the error after which nothing more is written; None while writing works.
        mirror: a function that gets the statements of each transaction once they are on disk,
            before a thread that waits for them goes on; None means that there is no mirror.

    Raises:
        JournalError: the writer's thread cannot be started.
    """

    def __init__(self, file: Path, seal: Seal, place: Place | None = None) -> None:
        self._seal = seal
        self._place = place or Place()
        self._set_file(file)
        self._next_check = SystemClock.now() + _CHECK_INTERVAL
        self._pid = getpid()
        self._requests: collections.deque[Request] = collections.deque()
        self._wakeups: queue.SimpleQueue[_Wakeup] = queue.SimpleQueue()
        # Whether the thread must be woken. It checks for requests again after setting this.
        self._is_idle = False
        # The attributes below change only under _writing, which is held for one transaction. The
        # main thread never takes it, because a signal handler could raise in mid-transaction.
        self._writing = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._retired: list[sqlite3.Connection] = []  # to files that were lost
        self._logs: Mapping[str, int] = {}
        self._transactions = 0
        self._log: int | None = None  # the write-ahead log
        self._log_size = 0  # including the padding
        self._is_closed = False
        self.failure: JournalError | None = None
        self.mirror: Callable[[Sequence[Statement]], None] | None = None
        self._thread = threading.Thread(target=self._serve, name="plan-journal", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise JournalError(
                f"the journal {file} cannot be written: {error}; nothing was started; raise the "
                "limit on processes (ulimit -u) or on memory (ulimit -v)"
            ) from error

    def note(self, statements: Callable[[], Sequence[Statement]]) -> None:
        """Queue statements to be written soon. The function is called when they are written."""
        if self._put(Request(statements)) and self._is_idle:
            self._wakeups.put(_Wakeup.QUEUED)

    def durably(self, statements: Sequence[Statement]) -> None:
        """Write the statements and all queued ones; return once they are on disk.

        Raises:
            JournalError: the statements cannot be written, or the writer is closed.
        """
        answer: queue.SimpleQueue[JournalError | None] = queue.SimpleQueue()
        if not self._put(Request(lambda: statements, answer)):
            return
        if threading.current_thread() is threading.main_thread():
            self._wakeups.put(_Wakeup.AWAITED)
        else:
            self._write_until(lambda: not answer.empty())
        if (error := self._wait_for(answer)) is not None:
            raise error

    def close(self) -> None:
        """Write all queued requests, and close the file."""
        if getpid() == self._pid:
            self._wakeups.put(_Wakeup.END)
            self._thread.join()

    def _put(self, request: Request) -> bool:
        # A forked child has no writer thread, and its records are not part of this run.
        if getpid() != self._pid:
            return False
        self._requests.append(request)
        return True

    def _wait_for(self, answer: queue.SimpleQueue[JournalError | None]) -> JournalError | None:
        while True:
            try:
                return answer.get(timeout=_CHECK_INTERVAL)
            except queue.Empty:
                if not self._thread.is_alive() and answer.empty():
                    return self._closed_error()

    def _serve(self) -> None:
        """Write the requests that no other thread writes itself, until the writer is closed."""
        try:
            while self._is_needed():
                self._write_until(lambda: not self._requests)
        finally:
            self._end()

    def _is_needed(self) -> bool:
        """Wait for requests that no other thread will write; return False if the writer closes."""
        self._is_idle = True
        wakeup = _Wakeup.QUEUED if self._requests else self._wait()
        self._is_idle = False
        while wakeup is _Wakeup.QUEUED:
            transactions = self._transactions
            try:
                wakeup = self._wakeups.get(timeout=_LINGER)
            except queue.Empty:
                if transactions == self._transactions:
                    break  # if another thread has written the requests, wait for newer ones
        return wakeup is not _Wakeup.END

    def _wait(self) -> _Wakeup:
        """Wait until the thread is woken; look after the journal every second."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._wakeups.get(timeout=max(0.0, self._next_check - SystemClock.now()))
            self._look_after_file()

    def _look_after_file(self) -> None:
        self._next_check = SystemClock.now() + _CHECK_INTERVAL
        with self._writing:
            if self._connection is None or self.failure is not None:
                return
            if not self._is_bad():
                return
            try:
                self._restore()
            except BaseException as error:
                self.failure = self._failed(error)

    def _is_bad(self) -> bool:
        try:
            return (
                self._is_lost() or self._found_logs() != self._logs or not self._place.is_intact()
            )
        except Exception:  # a test has replaced a function of `os`: look again later
            return False

    def _write_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            with self._writing:
                if not is_done():  # the thread that held the lock may have written it
                    self._write_batch()

    def _write_batch(self) -> None:
        batch = self._next_batch()
        if self._is_closed:
            self._refuse(batch, self._closed_error())
            return
        if batch and self.failure is None:
            try:
                self._write(self._opened(), batch)
            except BaseException as error:  # every waiting thread must get an answer
                self.failure = self._failed(error)
        if self.failure is not None:
            self._refuse(batch, self.failure)

    def _next_batch(self) -> list[Request]:
        batch: list[Request] = []
        while self._requests and len(batch) < _MAX_BATCH:
            batch.append(self._requests[0])  # if this raises MemoryError, the request stays queued
            self._requests.popleft()
        return batch

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._file, self._seal)
            with contextlib.suppress(OSError):  # without padding, commits only take longer
                self._log = os.open(f"{self._path}-wal", os.O_WRONLY | os.O_APPEND)
            self._logs = self._found_logs()
        return self._connection

    def _write(self, connection: sqlite3.Connection, batch: Sequence[Request]) -> None:
        self._transactions += 1
        statements = [one for request in batch for one in request.statements()]
        try:
            _commit(connection, statements)
        except sqlite3.Error:
            if not self._is_lost():
                raise
            self._restore()
            _commit(self._opened(), statements)
        # A later process must find what was written. Looking after the commit shows that.
        if self._is_lost():
            self._restore()
        if self.mirror is not None:
            self.mirror(statements)
        for request in batch:
            if request.answer is not None:
                request.answer.put(None)
        self._pad_log()

    def _set_file(self, file: Path) -> None:
        self._file = file
        self._path = os.fspath(file)
        status = os.lstat(self._path)
        self._inode, self._device = status.st_ino, status.st_dev
        self._mode, self._size = status.st_mode, status.st_size

    def _is_lost(self) -> bool:
        """Return whether the database file is not the one that this writer has open."""
        try:
            status = os.lstat(self._path)
        except OSError:
            return True
        return (
            status.st_ino != self._inode
            or status.st_mode != self._mode
            or status.st_dev != self._device
            or status.st_size < self._size
        )

    def _found_logs(self) -> Mapping[str, int]:
        """Return the inodes of the write-ahead log and its index, without reading their times."""
        names = [f"{self._file.name}{suffix}" for suffix in LOGS]
        with contextlib.suppress(OSError), os.scandir(self._file.parent) as found:
            return {entry.name: entry.inode() for entry in found if entry.name in names}
        return {}

    def _restore(self) -> None:
        """Write the journal again if it is lost, and otherwise repair its folder."""
        for left in reversed(range(_TRIES)):
            try:
                self._try_to_restore()
                break
            except (OSError, JournalError, sqlite3.Error):
                if not left:
                    raise
                SystemClock.sleep(_PAUSE)  # the folder may still be in the process of being removed

    def _try_to_restore(self) -> None:
        file = self._place.restore()
        if file != self._file or self._is_lost() or self._found_logs() != self._logs:
            self._write_again(file)
            self._place.written_again(file)

    def _write_again(self, file: Path) -> None:
        old = self._connection
        assert old is not None
        write_copy(old, file, self._seal)
        self._close_log()
        self._set_file(file)
        self._connection = None
        try:
            self._opened()
        except BaseException:
            self._connection = old
            raise
        # SQLite removes the log with the name of the new one when it closes the old connection.
        self._retired.append(old)
        with contextlib.suppress(sqlite3.Error):
            void(old)

    def _pad_log(self) -> None:
        """Pad the end of the write-ahead log with zeros, at which SQLite stops reading."""
        if self._log is None:
            return
        # A commit that extends the file takes twice as long (ext4). So does a commit after another
        # call has read the file's times (Linux 6.13), so this method avoids `stat` and `open`.
        with contextlib.suppress(OSError):  # if the disk is full, the next commit reports it
            size = os.lseek(self._log, 0, os.SEEK_END)
            if size != self._log_size:
                self._log_size = size + os.write(self._log, _PADDING)

    def _refuse(self, batch: Sequence[Request], failure: JournalError) -> None:
        for request in batch:
            if request.answer is not None:
                request.answer.put(failure)

    def _failed(self, error: BaseException) -> JournalError:
        return JournalError(
            f"the journal {self._file} cannot be written: {str(error) or type(error).__name__}; "
            "no further step starts, and the started ones are cleaned up; free disk space, or set "
            "plan_dir to another folder"
        )

    def _closed_error(self) -> JournalError:
        return JournalError(f"the journal {self._file} is closed because the run has ended")

    def _end(self) -> None:
        with self._writing:
            while self._requests:
                self._write_batch()
            self._is_closed = True
            self._close_log()
            if self._connection is not None:
                self._connection.close()
            for connection in self._retired:
                connection.close()

    def _close_log(self) -> None:
        log, self._log, self._log_size = self._log, None, 0
        if log is not None:
            os.close(log)


def _commit(connection: sqlite3.Connection, statements: Sequence[Statement]) -> None:
    if connection.in_transaction:  # the last attempt has failed
        connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    for statement in statements:
        _execute(connection, *statement)
    connection.execute("COMMIT")


def _execute(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> None:
    try:
        execute(connection, sql, values)
    except UnicodeEncodeError:  # program names and keys are not always valid UTF-8
        execute(connection, sql, [_writable(value) for value in values])


def _writable(value: Any) -> Any:
    """Return the value in a form that SQLite accepts."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
