"""Where the entries of the State are, in this process or another, and what admits changes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from pytest_plan.engine.journal.null import NullJournal
from pytest_plan.engine.model.clock import Clock, SystemClock
from pytest_plan.engine.model.errors import StateError

__tracebackhide__ = True  # as in state.py
Holder: TypeAlias = tuple[str, int]  # who holds a lock: a worker, "" for ourselves, and a thread
ABSENT = 0  # the version of a key that is not there


class Entry(NamedTuple):
    """A value and the version under which it was written; versions only grow."""

    version: int
    value: Any


class Prepared(NamedTuple):
    """A value that is ready to be written.

    Attributes:
        value: the value as the store keeps it.
        lasting: the value as the journal keeps it.
    """

    value: Any
    lasting: Any


class Store(Protocol):
    """Where the entries are. `version` None means whatever is there, 0 means absent."""

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`, None when absent."""

    def write(self, key: str, value: Any, version: int | None, writer: str | None) -> bool:
        """Write if `version` still holds; raise StateError when `writer` may not."""

    def remove(self, key: str, version: int, writer: str | None) -> bool:
        """Remove if `version` still holds; raise StateError when `writer` may not."""

    def versions(self) -> dict[str, int]:
        """Return the version of every key at one moment."""

    def snapshot(self) -> dict[str, Any]:
        """Return all values at one moment."""

    def wait(self, key: str, timeout: float | None, stopping: Callable[[], bool]) -> Entry | None:
        """Return the entry once there is one; None after `timeout` seconds or when stopping."""

    def acquire(self, name: str, timeout: float | None, stopping: Callable[[], bool]) -> bool:
        """Take the lock `name`; False after `timeout` seconds or when stopping."""

    def release(self, name: str, thread: int) -> None:
        """Give the lock `name` back, if that thread of this process still holds it."""


class Guard:
    """Access checks that a State makes before each operation. This base class allows everything."""

    uninterrupted: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()

    def stopping(self) -> bool:
        """Whether waiting should end."""
        return False

    def check(self) -> None:
        """Raise the reason when the caller must stop."""

    def admit(self) -> None:
        """Raise when the caller may change nothing any more."""


class LocalStore:
    """The store of one process."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        # Every attribute below changes only under _changed, which is notified of each change.
        self._changed = threading.Condition()
        self._entries: dict[str, Entry] = {}
        self._version = ABSENT
        self._holders: dict[str, Holder] = {}
        self._reserved: set[str] = set()
        self._closed = False
        self._learn: Callable[[Any], None] = lambda value: None
        self._journal = NullJournal()

    def on_write(self, learn: Callable[[Any], None]) -> None:
        """Call `learn` with every value: now with those that are here, later before each write."""
        self._learn = learn
        for value in self.snapshot().values():
            learn(value)

    def attach_journal(self, journal: NullJournal) -> None:
        """Record in `journal` what is here, and every change from now on."""
        with self._changed:
            self._journal = journal
            for key, entry in self._entries.items():
                journal.state_set(key, self._lasting(key, entry.value))

    def reserve(self, key: str) -> None:
        """Make `key` the key of the step with that name."""
        with self._changed:
            self._reserved.add(key)

    def is_reserved(self, key: str) -> bool:
        """Whether `key` is a step's."""
        return key in self._reserved

    def close(self) -> None:
        """Refuse writes from tests from now on: cleanup has begun."""
        with self._changed:
            self._closed = True

    def wake(self) -> None:
        """Let waiters look again at whether they are stopping."""
        with self._changed:
            self._changed.notify_all()

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`; see `Store.read`."""
        return self._entries.get(key)  # one look, at one moment

    def write(self, key: str, value: Any, version: int | None, writer: str | None) -> bool:
        """Write if `version` still holds; see `Store.write`."""
        return self.commit(key, self.prepare(key, value), version, writer)

    def prepare(self, key: str, value: Any) -> Prepared:
        """Do what takes long or runs code of the value; call it without holding a lock."""
        self._learn(value)
        return Prepared(value, self._lasting(key, value))

    def commit(self, key: str, prepared: Prepared, version: int | None, writer: str | None) -> bool:
        """Write what `prepare` returned, if `version` still holds; see `Store.write`."""
        with self._changed:
            self._refuse(key, writer)
            if version is not None and version != self._version_of(key):
                return False
            self._version += 1
            self._entries[key] = Entry(self._version, prepared.value)
            self._journal.state_set(key, prepared.lasting)
            self._changed.notify_all()
            return True

    def remove(self, key: str, version: int, writer: str | None) -> bool:
        """Remove if `version` still holds; see `Store.remove`."""
        with self._changed:
            self._refuse(key, writer)
            if version != self._version_of(key):
                return False
            del self._entries[key]
            self._journal.state_removed(key)
            self._changed.notify_all()
            return True

    def versions(self) -> dict[str, int]:
        """Return the version of every key; see `Store.versions`."""
        with self._changed:
            return {key: entry.version for key, entry in self._entries.items()}

    def snapshot(self) -> dict[str, Any]:
        """Return all values at one moment; see `Store.snapshot`."""
        with self._changed:
            return {key: entry.value for key, entry in self._entries.items()}

    def wait(self, key: str, timeout: float | None, stopping: Callable[[], bool]) -> Entry | None:
        """Return the entry once there is one; see `Store.wait`."""
        with self._changed:
            self._clock.wait_for(self._changed, lambda: key in self._entries or stopping(), timeout)
            return self._entries.get(key)

    def acquire(self, name: str, timeout: float | None, stopping: Callable[[], bool]) -> bool:
        """Take the lock `name`; see `Store.acquire`."""
        me = ("", threading.get_ident())
        with self._changed:
            self._clock.wait_for(
                self._changed, lambda: self._is_free(name, me) or stopping(), timeout
            )
            return self._take(name, me)

    def release(self, name: str, thread: int) -> None:
        """Give the lock `name` back; see `Store.release`."""
        self.release_held(name, ("", thread))

    def release_held(self, name: str, holder: Holder) -> None:
        """Give the lock `name` back if `holder` has it."""
        with self._changed:
            if self._holders.get(name) == holder:
                del self._holders[name]
                self._changed.notify_all()

    def abandon(self, thread: int) -> None:
        """Give back every lock of a thread of this process that was left behind."""
        with self._changed:
            names = [name for name, holder in self._holders.items() if holder == ("", thread)]
        for name in names:
            self.release(name, thread)

    def _lasting(self, key: str, value: Any) -> Any:
        return self._journal.lasting(value)

    def _is_free(self, name: str, holder: Holder) -> bool:
        if self._holders.get(name) == holder:
            raise StateError(f"lock {name!r} is already held by this thread")
        return name not in self._holders

    def _take(self, name: str, holder: Holder) -> bool:
        if name in self._holders:
            return False
        self._holders[name] = holder
        return True

    def _version_of(self, key: str) -> int:
        entry = self._entries.get(key)
        return ABSENT if entry is None else entry.version

    def _refuse(self, key: str, writer: str | None) -> None:
        if key in self._reserved and key != writer:
            raise StateError(
                f"key {key!r} belongs to the step {key!r}: its value is what the step returns; "
                "write under another key"
            )
        if self._closed and writer is None:
            raise StateError(f"key {key!r} cannot be written any more: cleanup has begun")
