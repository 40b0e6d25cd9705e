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
from typing import NamedTuple

from pytest_plan.engine.journal.schema import LOGS, connect, void, write_copy
from pytest_plan.engine.journal.seal import Seal
from pytest_plan.engine.journal.writing.place import Place
from pytest_plan.engine.journal.writing.transaction import (
    AnyStatement,
    PaddedLog,
    Statement,
    commit,
    made,
    set_durable,
)
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.copies import getpid

_LINGER = 0.002  # how many seconds to hold records that no thread waits for
_SHORTEST_HOLD = 0.05  # how many seconds to hold values of the State, at least
_LONGEST_HOLD = 0.25  # and at most
_HOLD_FACTOR = 9  # how many times as long as the last values took to write to hold the next ones
_MAX_BATCH = 1_000  # maximum number of requests in one transaction
_CHECK_INTERVAL = 1.0  # seconds between checks that the journal and the writer's thread are there
_TRIES = 5  # how often to try to write a lost journal again
_PAUSE = 0.05  # seconds between two of these attempts


class Request(NamedTuple):
    """Statements to write.

    Attributes:
        statements: a function that returns the statements; it is called when they are written.
        answer: the queue that receives None once the statements are on disk, or the error if
            they cannot be written; None means that no thread waits for them.
    """

    statements: Callable[[], Sequence[AnyStatement]]
    answer: queue.SimpleQueue[JournalError | None] | None = None


class _Wakeup(enum.Enum):
    """The reasons for waking the writer's thread."""

    QUEUED = enum.auto()  # a request that no thread waits for
    VALUES = enum.auto()  # values of the State, which may wait longer than requests
    AWAITED = enum.auto()  # a request that the main thread waits for
    END = enum.auto()


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
        # Returns the statements of values. Any thread sets it, and the one that writes takes it.
        self._values: Callable[[], Sequence[AnyStatement]] | None = None
        self._values_took = 0.0  # how many seconds the last values took to write
        # Whether the thread must be woken. It checks for requests again after setting this.
        self._is_idle = False
        # The attributes below change only under _writing, which is held for one transaction. The
        # main thread never takes it, because a signal handler could raise in mid-transaction.
        self._writing = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._retired: list[sqlite3.Connection] = []  # to files that were lost
        self._logs: Mapping[str, int] = {}
        self._is_durable = True  # whether commits return once they are on the disk
        self._transactions = 0
        self._log: PaddedLog | None = None
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

    def note(self, statements: Callable[[], Sequence[AnyStatement]]) -> None:
        """Queue statements to be written soon. The function is called when they are written."""
        if self._put(Request(statements)) and self._is_idle:
            self._wakeups.put(_Wakeup.QUEUED)

    def note_values(self, statements: Callable[[], Sequence[AnyStatement]]) -> None:
        """Write values of the State with the next transaction, or when they have waited enough.

        Args:
            statements: a function that returns the statements. It is always the same one, it is
                called once for all values that were noted before, and later values are noted again.
        """
        if self._values is None and getpid() == self._pid:
            self._values = statements
            if self._is_idle:
                self._wakeups.put(_Wakeup.VALUES)

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
                self._write_until(self._is_written_since(self._transactions))
        finally:
            self._end()

    def _is_written_since(self, transactions: int) -> Callable[[], bool]:
        """Return a check for whether no request is left, nor any value from before."""
        return lambda: (
            not self._requests and (self._values is None or self._transactions != transactions)
        )

    def _is_needed(self) -> bool:
        """Wait for requests that no other thread will write; return False if the writer closes."""
        self._is_idle = True
        if self._requests:
            wakeup = _Wakeup.QUEUED
        else:
            wakeup = self._wait() if self._values is None else _Wakeup.VALUES
        if wakeup is _Wakeup.VALUES:
            wakeup = self._hold_values()
        self._is_idle = False
        while wakeup is _Wakeup.QUEUED:
            transactions = self._transactions
            try:
                wakeup = self._wakeups.get(timeout=_LINGER)
            except queue.Empty:
                if transactions == self._transactions:
                    break  # if another thread has written the requests, wait for newer ones
        return wakeup is not _Wakeup.END

    def _hold_values(self) -> _Wakeup:
        """Wait until the values are due, or until the thread is woken for something else."""
        longest = _LINGER if self.mirror is not None else _LONGEST_HOLD
        hold = max(_SHORTEST_HOLD, _HOLD_FACTOR * self._values_took)
        due = SystemClock.now() + min(longest, hold)
        wakeup = _Wakeup.VALUES
        with contextlib.suppress(queue.Empty):
            while wakeup is _Wakeup.VALUES:
                wakeup = self._wakeups.get(timeout=max(0.0, due - SystemClock.now()))
        return wakeup

    def _wait(self) -> _Wakeup:
        """Wait until the thread is woken; look after the journal every second."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._wakeups.get(timeout=max(0.0, self._next_check - SystemClock.now()))
            self._look_after_file()

    def _look_after_file(self) -> None:
        self._next_check = SystemClock.now() + _CHECK_INTERVAL
        with self._writing:
            if self._connection is None or self.failure is not None or not self._is_bad():
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
        began, batch = SystemClock.now(), self._next_batch()
        # Taken after the requests: a durable one also waits for the values that were noted before.
        values, self._values = self._values, None
        if self._is_closed:
            self._refuse(batch, self._closed_error())
            return
        if (batch or values is not None) and self.failure is None:
            try:
                if values is not None:
                    batch.append(Request(values))
                self._write(self._opened(), batch)
            except BaseException as error:  # every waiting thread must get an answer
                self.failure = self._failed(error)
        if self.failure is not None:
            self._refuse(batch, self.failure)
        if values is not None:
            self._values_took = SystemClock.now() - began

    def _next_batch(self) -> list[Request]:
        batch: list[Request] = []
        while self._requests and len(batch) < _MAX_BATCH:
            batch.append(self._requests[0])  # if this raises MemoryError, the request stays queued
            self._requests.popleft()
        return batch

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection, self._is_durable = connect(self._file, self._seal), True
            self._log = PaddedLog(f"{self._path}-wal")
            self._logs = self._found_logs()
        return self._connection

    def _write(self, connection: sqlite3.Connection, batch: Sequence[Request]) -> None:
        self._transactions += 1
        statements = [one for request in batch for one in request.statements()]
        if self.mirror is not None:  # otherwise each is made when it is executed
            statements = [made(one) for one in statements]
        durable = any(request.answer is not None for request in batch)
        if durable != self._is_durable:
            set_durable(connection, durable)
            self._is_durable = durable
        try:
            commit(connection, statements)
        except sqlite3.Error:
            if not self._is_lost():
                raise
            self._restore()
            commit(self._opened(), statements)
        if durable and not statements and self._log is not None:
            self._log.sync()  # the commit of nothing has not written what earlier ones have left
        # A later process must find what was written. Looking after the commit shows that.
        if self._is_lost():
            self._restore()
        if self.mirror is not None:
            self.mirror([made(one) for one in statements])
        for request in batch:
            if request.answer is not None:
                request.answer.put(None)
        if self._log is not None:
            self._log.pad()

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
            while self._requests or self._values is not None:
                self._write_batch()
            self._is_closed = True
            self._close_log()
            if self._connection is not None:
                self._connection.close()
            for connection in self._retired:
                connection.close()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
