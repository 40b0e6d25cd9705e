"""Storage for the State: its interface, the store in one process, and access checks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeAlias

from pytest_plan.engine.journal.null import NullJournal
from pytest_plan.engine.model.clock import Clock, SystemClock
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.processes.copies import getpid

__tracebackhide__ = True  # as in state.py

Holder: TypeAlias = tuple[str, int]  # the worker and thread that hold a lock ("": this process)

ABSENT = 0  # the version of a missing key
IN_COPY = (
    "a forked copy of the process (--forked, os.fork, multiprocessing) can only read the values of "
    "the steps that the running test needs; use the plan and its State in the original process, or "
    "run the test without --forked"
)


class Entry(NamedTuple):
    """A value and its version. Each write gets a higher version than all earlier writes."""

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
    """The entries and locks of a State.

    `version` is the version that the entry must have: `ABSENT` (0) means that there must be no
    entry, and None means any version or none. `writer` is the name of the step that writes; None
    means a test. `timeout` is the maximum time to wait, in seconds; None means no limit.
    `stopping` returns whether the caller must stop waiting. In a forked copy of the process, every
    method raises StateError, except `release`, and `read` for the values of the test's steps.
    """

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`, or None if there is none."""

    def write(self, key: str, value: Any, version: int | None, writer: str | None) -> bool:
        """Write if the entry is at `version`; return whether the value was written.

        Raises:
            StateError: `writer` may not write this key.
        """

    def remove(self, key: str, version: int, writer: str | None) -> bool:
        """Remove the entry if it is at `version`; return whether it was removed.

        Raises:
            StateError: `writer` may not write this key.
        """

    def versions(self) -> dict[str, int]:
        """Return the versions of all keys, as a consistent copy."""

    def snapshot(self) -> dict[str, Any]:
        """Return the values of all keys, as a consistent copy."""

    def wait(self, key: str, timeout: float | None, stopping: Callable[[], bool]) -> Entry | None:
        """Wait for an entry of `key`; return it, or None after `timeout` or when stopping."""

    def acquire(self, name: str, timeout: float | None, stopping: Callable[[], bool]) -> bool:
        """Acquire the lock `name`; return False after `timeout` or when stopping.

        Raises:
            StateError: the calling thread already holds it.
        """

    def release(self, name: str, thread: int) -> None:
        """Release the lock `name` if the thread `thread` of this process holds it."""


class Guard:
    """The access checks that a State makes before each operation. This class allows everything.

    Attributes:
        uninterrupted: a context manager that delays an injected exception.
    """

    uninterrupted: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()

    def stopping(self) -> bool:
        """Return whether the caller must stop waiting."""
        return False

    def check(self) -> None:
        """Raise an error if the caller must stop."""

    def admit(self) -> None:
        """Raise StateError if the caller may no longer change anything."""


class LocalStore:
    """The store of one process.

    Args:
        clock: the clock that measures timeouts; None means the machine's monotonic clock.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        # All attributes below change only under _lock, and each change calls _notify. A condition
        # takes several calls to enter and to notify, and hardly ever has a waiting thread.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0  # how many threads wait for _changed
        self._entries: dict[str, Entry] = {}
        self._version = ABSENT
        self._holders: dict[str, Holder] = {}
        self._reserved: set[str] = set()
        self._closed = False
        self._learn: Callable[[Any], None] = lambda value: None
        self._journal = NullJournal()
        self._process: int | None = None
        self._kept: frozenset[str] = frozenset()

    def begin(self) -> None:
        """Refuse access from forked copies of this process, which runs the plan, from now on."""
        self._process = getpid()

    def keep_for_copies(self, keys: Iterable[str]) -> None:
        """Let forked copies of this process read only these keys."""
        self._kept = frozenset(keys)

    def on_write(self, learn: Callable[[Any], None]) -> None:
        """Call `learn` with all present values now, and with each new value before its write."""
        self._learn = learn
        for value in self.snapshot().values():
            learn(value)

    def attach_journal(self, journal: NullJournal) -> None:
        """Record all present entries in `journal`, and every change from now on."""
        with self._lock:
            self._journal = journal
            for key, entry in self._entries.items():
                journal.state_set(key, self._lasting(key, entry.value))

    def reserve(self, key: str) -> None:
        """Reserve `key` for the step of the same name."""
        with self._lock:
            self._reserved.add(key)

    def close(self) -> None:
        """Refuse all further writes from tests, because cleanup has begun."""
        with self._lock:
            self._closed = True

    def wake(self) -> None:
        """Make every waiting caller check again whether it must stop."""
        with self._lock:
            self._notify()

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`; see `Store.read`."""
        if key not in self._kept:
            self._refuse_copy()
        return self._entries.get(key)  # needs no lock: one lookup is atomic

    def write(self, key: str, value: Any, version: int | None, writer: str | None) -> bool:
        """Write if the entry is at `version`; see `Store.write`."""
        self._refuse_copy()
        return self.commit(key, self.prepare(key, value), version, writer)

    def prepare(self, key: str, value: Any) -> Prepared:
        """Prepare a value for `commit`.

        This may be slow and may run code of the value, so do not hold a lock during the call.
        """
        self._learn(value)
        return Prepared(value, self._lasting(key, value))

    def commit(self, key: str, prepared: Prepared, version: int | None, writer: str | None) -> bool:
        """Write the result of `prepare` if the entry is at `version`; see `Store.write`."""
        with self._lock:
            self._refuse(key, writer)
            if version is not None and version != self._version_of(key):
                return False
            self._version += 1
            self._entries[key] = Entry(self._version, prepared.value)
            self._journal.state_set(key, prepared.lasting, writer)
            self._notify()
            return True

    def remove(self, key: str, version: int, writer: str | None) -> bool:
        """Remove the entry if it is at `version`; see `Store.remove`."""
        self._refuse_copy()
        with self._lock:
            self._refuse(key, writer)
            if version != self._version_of(key):
                return False
            del self._entries[key]
            self._journal.state_removed(key)
            self._notify()
            return True

    def versions(self) -> dict[str, int]:
        """Return the versions of all keys; see `Store.versions`."""
        self._refuse_copy()
        with self._lock:
            return {key: entry.version for key, entry in self._entries.items()}

    def snapshot(self) -> dict[str, Any]:
        """Return all values; see `Store.snapshot`."""
        self._refuse_copy()
        with self._lock:
            return {key: entry.value for key, entry in self._entries.items()}

    def wait(self, key: str, timeout: float | None, stopping: Callable[[], bool]) -> Entry | None:
        """Wait for an entry and return it; see `Store.wait`."""
        self._refuse_copy()
        with self._lock:
            self._wait_until(lambda: key in self._entries or stopping(), timeout)
            return self._entries.get(key)

    def acquire(self, name: str, timeout: float | None, stopping: Callable[[], bool]) -> bool:
        """Acquire the lock `name`; see `Store.acquire`."""
        self._refuse_copy()
        me = ("", threading.get_ident())
        with self._lock:
            self._wait_until(lambda: self._is_free(name, me) or stopping(), timeout)
            return self._take(name, me)

    def release(self, name: str, thread: int) -> None:
        """Release the lock `name`; see `Store.release`."""
        if self._is_copied():
            return  # it is the original process that holds the lock
        self.release_held(name, ("", thread))

    def release_held(self, name: str, holder: Holder) -> None:
        """Release the lock `name` if `holder` holds it."""
        with self._lock:
            if self._holders.get(name) == holder:
                del self._holders[name]
                self._notify()

    def abandon(self, thread: int) -> None:
        """Release every lock that an abandoned thread of this process holds."""
        with self._lock:
            names = [name for name, holder in self._holders.items() if holder == ("", thread)]
        for name in names:
            self.release(name, thread)

    def _wait_until(self, is_over: Callable[[], bool], timeout: float | None) -> None:
        """Wait, while other threads may take the lock that the caller holds."""
        self._waiting += 1
        try:
            self._clock.wait_for(self._changed, is_over, timeout)
        finally:
            self._waiting -= 1

    def _notify(self) -> None:
        if self._waiting:
            self._changed.notify_all()

    def _is_copied(self) -> bool:
        return self._process is not None and getpid() != self._process

    def _refuse_copy(self) -> None:
        # The locks of a copy may be held forever, by threads that it does not have.
        if self._is_copied():
            raise StateError(IN_COPY)

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
                f"key {key!r} belongs to the step {key!r} and holds the value that it returns; "
                "use another key"
            )
        if self._closed and writer is None:
            raise StateError(f"key {key!r} can no longer be written: cleanup has begun")
