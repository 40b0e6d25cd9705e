"""The key/value map that steps and tests share (gsd: State, a sync.Map).

`State` is the handle people use. It speaks to a `Store` in a few primitive operations, each
conditional on a version, so that the same handle works on a store in another process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from pytest_plan.engine.clock import Clock, SystemClock
from pytest_plan.engine.errors import StateError
from pytest_plan.engine.unrecorded import Unrecorded

__tracebackhide__ = True  # pytest shows the line of the test that we refuse, not ours
Holder: TypeAlias = tuple[str, int]  # who holds a lock: a worker, "" for ourselves, and a thread
ABSENT = 0  # the version of a key that is not there


class Entry(NamedTuple):
    """A value and the version under which it was written; versions only grow."""

    version: int
    value: Any


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
    """What a handle asks before it acts; this one lets everything pass, for tests and scripts."""

    mask: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()

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
        self._journal = Unrecorded()

    def teach(self, learn: Callable[[Any], None]) -> None:
        """Tell `learn` every value that is written, so that it can mask secrets."""
        self._learn = learn

    def keep_in(self, journal: Unrecorded) -> None:
        """Note every change in `journal`; to be called before the first one."""
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
        with self._changed:
            return self._entries.get(key)

    def write(self, key: str, value: Any, version: int | None, writer: str | None) -> bool:
        """Write if `version` still holds; see `Store.write`."""
        self._learn(value)
        lasting = self._lasting(key, value)
        with self._changed:
            self._refuse(key, writer)
            if version is not None and version != self._version_of(key):
                return False
            self._version += 1
            self._entries[key] = Entry(self._version, value)
            self._journal.state_set(key, lasting)
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


class State(MutableMapping[str, Any]):
    """The values that steps and tests share, safe from every thread.

    A value is what was set: changing it in place is not a write. Each method is atomic, but for
    `update` and `clear`, which go key by key.
    Keys are strings; the name of a step is that step's alone. Writes raise `StateError` when
    the key is no string, belongs to a step, or (from a test) once cleanup has begun.
    """

    def __init__(
        self, store: Store | None = None, *, writer: str | None = None, guard: Guard | None = None
    ) -> None:
        self._store: Store = LocalStore() if store is None else store
        self._writer = writer
        self._guard = guard or Guard()

    def __getitem__(self, key: str) -> Any:
        """Return the value of `key`; raise KeyError when there is none (gsd: Load)."""
        entry = self._read(key)
        if entry is None:
            raise KeyError(key)
        return entry.value

    def __setitem__(self, key: str, value: Any) -> None:
        """Set the value of `key` (gsd: Store)."""
        self._write(key, value, None)

    def __delitem__(self, key: str) -> None:
        """Remove `key`; raise KeyError when it is missing (gsd: Delete)."""
        while True:
            version = self._versions().get(_key(key))
            if version is None:
                raise KeyError(key)
            if self._remove(key, version):
                return

    def __contains__(self, key: object) -> bool:
        return key in self._versions()

    def __iter__(self) -> Iterator[str]:
        return iter(self._versions())

    def __len__(self) -> int:
        return len(self._versions())

    def __repr__(self) -> str:
        try:
            return f"State({self.snapshot()!r})"
        except StateError:
            return f"State(keys: {', '.join(self)})"

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, after setting it to `default` if missing (LoadOrStore)."""
        while True:
            entry = self._read(key)
            if entry is not None:
                return entry.value
            if self._write(key, default, ABSENT):
                return default

    def pop(self, key: str, *default: Any) -> Any:
        """Remove `key` and return its value (gsd: LoadAndDelete).

        Raises:
            KeyError: `key` is missing and no default was given.
        """
        if len(default) > 1:
            raise TypeError("pop takes a key and at most one default")
        while True:
            entry = self._read(key)
            if entry is None:
                if default:
                    return default[0]
                raise KeyError(key)
            if self._remove(key, entry.version):
                return entry.value

    def clear(self) -> None:
        """Remove every key that no step owns (gsd: Clear)."""
        for key in self:
            with contextlib.suppress(KeyError, StateError):
                del self[key]

    def swap(self, key: str, value: Any) -> Any:
        """Set `key` and return what was there before, None when missing (gsd: Swap)."""
        while True:
            entry = self._read(key)
            if self._write(key, value, ABSENT if entry is None else entry.version):
                return None if entry is None else entry.value

    def compare_and_swap(self, key: str, old: Any, new: Any) -> bool:
        """Set `key` to `new` if it equals `old`; False if not, or if missing (CompareAndSwap).

        Values are compared by `==`, in the caller.
        """
        while True:
            entry = self._read(key)
            if entry is None or not _equal(entry.value, old):
                return False
            if self._write(key, new, entry.version):
                return True

    def compare_and_delete(self, key: str, old: Any) -> bool:
        """Remove `key` if it equals `old`; False if not, or if missing (CompareAndDelete)."""
        while True:
            entry = self._read(key)
            if entry is None or not _equal(entry.value, old):
                return False
            if self._remove(key, entry.version):
                return True

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the whole map at one moment (gsd: Range)."""
        with self._guard.mask:
            return self._store.snapshot()

    def wait_for(self, key: str, timeout: float | None = None) -> Any:
        """Return the value of `key` as soon as there is one.

        Args:
            key: the key.
            timeout: seconds; None waits until the plan stops the caller.

        Raises:
            TimeoutError: there was none in time.
        """
        with self._guard.mask:
            entry = self._store.wait(_key(key), timeout, self._guard.stopping)
        if entry is not None:
            return entry.value
        self._guard.check()
        raise TimeoutError(f"state has no {key!r} after {timeout} s")

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float | None = None) -> Iterator[None]:
        """Hold the mutex `name`, one for all tests and steps of the run.

        Args:
            name: any string; not related to the keys.
            timeout: seconds to wait for it; None waits until the plan stops the caller.

        Raises:
            TimeoutError: another holder kept it for longer.
            StateError: this thread holds it already.
        """
        held, thread = False, threading.get_ident()
        try:
            with self._guard.mask:
                self._guard.admit()
                held = self._store.acquire(_key(name), timeout, self._guard.stopping)
            if not held:
                self._guard.check()
                raise TimeoutError(f"lock {name!r} was not free after {timeout} s")
            yield
        finally:
            if held:
                with self._guard.mask:
                    self._store.release(name, thread)

    def _versions(self) -> dict[str, int]:
        with self._guard.mask:
            return self._store.versions()

    def _read(self, key: str) -> Entry | None:
        with self._guard.mask:
            return self._store.read(_key(key))

    def _write(self, key: str, value: Any, version: int | None) -> bool:
        with self._guard.mask:
            self._guard.admit()
            return self._store.write(_key(key), value, version, self._writer)

    def _remove(self, key: str, version: int) -> bool:
        with self._guard.mask:
            self._guard.admit()
            return self._store.remove(_key(key), version, self._writer)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise StateError(f"a key is a string, not {key!r} of type {type(key).__name__!r}")
    return key
