"""The durable record of an environment, in SQLite; written by one thread that owns the file.

Write-ahead: what a later process must know is on the disk before it is true. What only helps is
written with the next of these, or a moment later.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pytest_plan.engine.codec import Codec
from pytest_plan.engine.errors import JournalError
from pytest_plan.engine.identity import identify
from pytest_plan.engine.outcomes import EXEC_HOOKS, Hook
from pytest_plan.engine.record import StepRecord
from pytest_plan.engine.reference import NotDurableError, References
from pytest_plan.engine.tables import connect, schema
from pytest_plan.engine.unrecorded import Deferred, Unrecorded

_LINGER = 0.002  # seconds that what nobody waits for may wait for company
_MOST = 1_000  # statements before those who wait are answered
_LOOK = 1.0  # seconds after which who waits looks whether the writer is still there
_ROOM = bytes(64 << 10)  # what the log is made longer by at a time
_UNDO = "INSERT INTO undo(number, step, hook, label, kind, data) VALUES (?, ?, ?, ?, ?, ?)"

Statement: TypeAlias = tuple[str, Sequence[Any]]


class Lasting(NamedTuple):
    """A value of the State on its way to the disk.

    Attributes:
        text: the value as `Codec` writes it; None when it cannot be.
        lost: why it cannot be written; None when it can.
    """

    text: str | None
    lost: str | None = None


class _Request(NamedTuple):
    """Statements for the writer; who waits for them hears their end by `answer`."""

    statements: Callable[[], Sequence[Statement]]
    answer: queue.SimpleQueue[JournalError | None] | None = None


class Journal(Unrecorded):
    """The journal of one environment.

    Args:
        file: the database; made when it is missing, in a folder that is there.
        references: how functions and classes are found again.
        fingerprint: returns the fingerprint of a step by its name.

    Raises:
        JournalError: the file cannot be made, or is no journal.
    """

    is_kept = True

    def __init__(
        self,
        file: Path,
        references: References,
        fingerprint: Callable[[str], str] = lambda step: "",
    ) -> None:
        self.file = file
        self._references = references
        self._mask: Callable[[str], str] = str
        self._codec = Codec(references, lambda text: self._mask(text) != text)
        self._fingerprint = fingerprint
        self._pid = os.getpid()
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self.failure: JournalError | None = None  # set once, by the writer
        made = not file.exists()
        if made:
            _make(file)
        self._path = os.fspath(file)
        self._inode = os.stat(self._path).st_ino
        self._log_size = 0  # of the write-ahead log, with its room; the writer's alone
        self._numbers = itertools.count(1 if made else _next_number(file))
        self._thread = threading.Thread(target=self._write_all, name="plan-journal", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system gives no thread
            if made:
                file.unlink()
            raise JournalError(
                f"the journal {file} cannot be written: {error}; nothing was begun: raise the "
                "system's limit of processes (ulimit -u) or of memory (ulimit -v)"
            ) from error

    def hide(self, mask: Callable[[str], str]) -> None:
        """Let nothing be written that `mask`, which replaces secrets, would change."""
        self._mask = mask

    def set(self, **values: Any) -> None:
        """Note facts about the environment, durably; each must be plain JSON."""
        self._durably(*_header(values))

    def flush(self) -> None:
        """Return when all that was noted is on the disk; raise JournalError when it cannot be."""
        self._durably()

    def before(self, record: StepRecord) -> Callable[[], None]:
        """Return what must be called before user code of the step."""
        return lambda: self.step_begun(record)

    def step_begun(self, record: StepRecord) -> None:
        """Note, durably, that user code of the step may run from now on."""
        self._durably(self._begun(record))

    def step_ended(self, record: StepRecord) -> None:
        """Note how the step ended; durably if its `cleanup` hook takes its value or the State."""
        tail = record.log.tail() if record.error is not None else ""
        ended: Statement = (
            "UPDATE step SET outcome = ?, completed = ?, log_tail = ? WHERE name = ?",
            (record.outcome.value, record.completed, tail, record.name),
        )
        # One that only cleans up has begun without any code of its own.
        is_new = record.has_begun and not record.planned.hooks.keys() & set(EXEC_HOOKS)
        statements = [self._begun(record), ended] if is_new else [ended]
        if not _takes(record, "value", "state"):
            self._put(_Request(lambda: statements))
            return
        # What its cleanup is made with is on the disk before anybody can rely on the step.
        with contextlib.suppress(JournalError):
            self._durably(*statements)

    def cleanup_begun(self, record: StepRecord) -> None:
        """Note, durably if that can be, that the step is being cleaned up by one owner more."""
        sql = "UPDATE step SET cleanup = 'pending', owners = owners + 1 WHERE name = ?"
        with contextlib.suppress(JournalError):
            self._durably((sql, (record.name,)))

    def cleanup_ended(self, record: StepRecord) -> None:
        """Note how the cleanup of the step ended."""
        outcome = record.cleanup.outcome.value
        self._note("UPDATE step SET cleanup = ? WHERE name = ?", (outcome, record.name))

    def hook_done(self, record: StepRecord) -> None:
        """Note that the `cleanup` hook has succeeded."""
        self._note("UPDATE step SET hook_done = 1 WHERE name = ?", (record.name,))

    def deferred(self, step: str, hook: Hook, label: str, call: Deferred) -> int | None:
        """Note a deferred call, durably; one that no later process could make is noted as lost."""
        try:
            reference = self._references.of(call.function)
            given = self._codec.encode([list(call.arguments), dict(call.keywords)])
        except NotDurableError as error:
            return self._undo(step, hook, label, "lost", str(error))
        data = [[reference.module, reference.qualname, reference.file], given]
        return self._undo(step, hook, label, "call", json.dumps(data))

    def tree_planned(self, step: str, hook: Hook, label: str, how: Mapping[str, Any]) -> int | None:
        """Note a process tree that is about to start, durably; return its number."""
        return self._undo(step, hook, label, "tree", json.dumps(dict(how)))

    def tree_started(self, number: int | None, pid: int) -> None:
        """Note the first process of a tree, durably: it may soon write over its mark."""
        who = identify(pid)
        known = json.dumps({"pid": who.pid, "birth": who.birth, "boot": who.boot})
        sql = "UPDATE undo SET data = json_patch(data, ?) WHERE number = ?"
        self._durably((sql, (known, number)))

    def tail_made(self, step: str) -> int | None:
        """Note that a generator has yielded: its tail lives in this process alone."""
        number = next(self._numbers)
        row = (number, step, Hook.EXEC.value, "what follows its yield", "tail", "")
        self._note(_UNDO, row)
        return number

    def variable_set(self, step: str, hook: Hook, name: str, value: str) -> int | None:
        """Note an environment variable; return its number."""
        is_secret = self._mask(value) != value
        data = json.dumps([name, None if is_secret else value])
        return self._undo(step, hook, f"restore ${name}", "variable", data)

    def scratch(self, folder: Path) -> None:
        """Note, durably, the folder that the run makes."""
        self.set(scratch=str(folder))

    def forget(self, steps: Iterable[str]) -> None:
        """Note that nothing of these steps is there any more."""
        columns = (("step", "name"), ("undo", "step"), ("state", "key"))
        statements = [
            (f"DELETE FROM {table} WHERE {column} = ?", (step,))  # noqa: S608 - ours
            for step in steps
            for table, column in columns
        ]
        self._put(_Request(lambda: statements))

    def undone(self, number: int | None) -> None:
        """Note that something has been taken back."""
        if number is not None:
            self._note("UPDATE undo SET done = 1 WHERE number = ?", (number,))

    def lasting(self, value: Any) -> Lasting:
        """Return the value as it will be written, whatever becomes of it in memory."""
        try:
            return Lasting(self._codec.encode(value))
        except NotDurableError as error:
            return Lasting(None, str(error))

    def state_set(self, key: str, lasting: Lasting | Callable[[], Lasting]) -> None:
        """Note a value of the State; a function is called by the writer."""

        def statements() -> Sequence[Statement]:
            made = lasting() if callable(lasting) else lasting
            row = (key, made.text, made.lost)
            return [("INSERT OR REPLACE INTO state(key, value, lost) VALUES (?, ?, ?)", row)]

        self._put(_Request(statements))

    def state_removed(self, key: str) -> None:
        """Note that a key is gone."""
        self._note("DELETE FROM state WHERE key = ?", (key,))

    def close(self) -> None:
        """Write what is noted, and let go of the file."""
        if os.getpid() == self._pid:
            self._requests.put(None)
            self._thread.join()

    def _begun(self, record: StepRecord) -> Statement:
        planned = record.planned
        return (
            "INSERT OR REPLACE INTO step(name, needs, after, cleanup_hook, cleanup_when,"
            " fingerprint, outcome) VALUES (?, ?, ?, ?, ?, ?, 'running')",
            (
                record.name,
                json.dumps(planned.needs),
                json.dumps(planned.after),
                (Hook.CLEANUP in planned.hooks) + _takes(record, "value"),
                planned.options.cleanup_when,
                self._fingerprint(record.name),
            ),
        )

    def _undo(self, step: str, hook: Hook, label: str, kind: str, data: str) -> int | None:
        number = next(self._numbers)
        self._durably((_UNDO, (number, step, hook.value, self._mask(label), kind, data)))
        return number

    def _note(self, sql: str, values: Sequence[Any]) -> None:
        self._put(_Request(lambda: [(sql, values)]))

    def _durably(self, *statements: Statement) -> None:
        answer: queue.SimpleQueue[JournalError | None] = queue.SimpleQueue()
        if not self._put(_Request(lambda: statements, answer)):
            return
        if (error := self._heard(answer)) is not None:
            raise error

    def _heard(self, answer: queue.SimpleQueue[JournalError | None]) -> JournalError | None:
        while True:
            try:
                return answer.get(timeout=_LOOK)
            except queue.Empty:
                if not self._thread.is_alive() and answer.empty():
                    return JournalError(f"the journal {self.file} is closed: the run is over")

    def _put(self, request: _Request) -> bool:
        # In a child that a step has forked there is no writer, and nothing of it is ours to note.
        if os.getpid() != self._pid:
            return False
        self._requests.put(request)
        return True

    def _write_all(self) -> None:
        """Serve requests until None comes; the only code that touches the connection."""
        batch: list[_Request | None] = []
        try:
            with contextlib.closing(connect(self.file)) as connection:
                while None not in batch:
                    batch = self._next_batch()
                    self._write(connection, [request for request in batch if request is not None])
        except Exception as error:  # whatever it is: nobody may wait for ever
            self.failure = JournalError(
                f"the journal {self.file} cannot be written: {str(error) or type(error).__name__}; "
                "nothing more is begun, and what has begun is cleaned up: free the disk, or set "
                "plan_dir to another folder"
            )
            self._refuse(batch, self.failure)

    def _next_batch(self) -> list[_Request | None]:
        """Return what goes into one transaction; those who wait are not kept waiting."""
        batch: list[_Request | None] = []
        linger: float | None = None
        with contextlib.suppress(queue.Empty):
            while len(batch) < _MOST:
                request = self._requests.get(timeout=linger)
                batch.append(request)
                if request is None:
                    break
                linger = 0.0 if request.answer or linger == 0.0 else _LINGER
        return batch

    def _write(self, connection: sqlite3.Connection, batch: Sequence[_Request]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for request in batch:
            for sql, values in request.statements():
                connection.execute(sql, [_writable(value) for value in values])
        connection.execute("COMMIT")
        if os.stat(self._path).st_ino != self._inode:
            raise OSError(f"{self.file} is not the file any more that it was")
        for request in batch:
            if request.answer is not None:
                request.answer.put(None)
        self._make_room()

    def _make_room(self) -> None:
        """Keep the write-ahead log longer than what is in it; SQLite ends at the first zeros."""
        # A commit that makes the file longer takes up to three times as long (ext4).
        log = f"{self._path}-wal"
        with contextlib.suppress(OSError):  # on a full disk the next commit says so
            size = os.stat(log).st_size
            if size != self._log_size:
                with open(log, "ab") as file:
                    file.write(_ROOM)
                self._log_size = size + len(_ROOM)

    def _refuse(self, batch: Sequence[_Request | None], failure: JournalError) -> None:
        while True:
            for request in batch:
                if request is not None and request.answer is not None:
                    request.answer.put(failure)
            if None in batch:
                return
            batch = [self._requests.get()]


def _make(file: Path) -> None:
    # Under another name until it is whole: a journal is never half made.
    unfinished = file.with_name(f"{file.name}.new")
    try:
        for left in file.parent.glob(f"{unfinished.name}*"):
            left.unlink()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
        os.close(os.open(unfinished, flags, 0o600))
        # Only then with a write-ahead log: closing one does not say when it could not be merged.
        with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
            for sql in ("PRAGMA journal_mode = MEMORY", "BEGIN", *schema(), "COMMIT"):
                connection.execute(sql)
            connection.execute("PRAGMA journal_mode = WAL")
        unfinished.rename(file)
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"the journal {file} cannot be made: {error}") from error


def _takes(record: StepRecord, *names: str) -> bool:
    hook = record.planned.hooks.get(Hook.CLEANUP)
    return hook is not None and not {*hook.required, *hook.optional}.isdisjoint(names)


def _next_number(file: Path) -> int:
    try:
        with contextlib.closing(connect(file)) as connection:
            rows = connection.execute("SELECT coalesce(max(number), 0) FROM undo")
            return int(rows.fetchone()[0]) + 1
    except sqlite3.Error as error:
        raise JournalError(f"the journal {file} cannot be continued: {error}") from error


def _writable(value: Any) -> Any:
    """Return the value as SQLite can take it: names of programs and keys may be no UTF-8."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _header(values: Mapping[str, Any]) -> list[Statement]:
    sql = "INSERT OR REPLACE INTO environment(key, value) VALUES (?, ?)"
    return [(sql, (key, json.dumps(value))) for key, value in values.items()]
