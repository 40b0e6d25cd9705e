"""The key/value map that steps and tests share (gsd: State, a sync.Map).

`State` is the handle people use. It speaks to a `Store` in a few primitive operations, each
conditional on a version, so that the same handle works on a store in another process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.shared.store import ABSENT, Entry, Guard, LocalStore, Store

__tracebackhide__ = True  # pytest shows the line of the test that we refuse, not ours


class State(MutableMapping[str, Any]):
    """The values that steps and tests share, safe from every thread.

    A value is what was set: changing it in place is not a write. Each method is atomic, but for
    `update` and `clear`, which go key by key.
    Keys are strings; the name of a step is that step's alone. Writes raise `StateError` when
    the key is no string, belongs to a step, or (from a test) once cleanup has begun.
    """

    __module__ = "pytest_plan"

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
        with self._guard.uninterrupted:
            return self._store.snapshot()

    def wait_for(self, key: str, timeout: float | None = None) -> Any:
        """Return the value of `key` as soon as there is one.

        Args:
            key: the key.
            timeout: seconds; None waits until the plan stops the caller.

        Raises:
            TimeoutError: there was none in time.
        """
        with self._guard.uninterrupted:
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
            with self._guard.uninterrupted:
                self._guard.admit()
                held = self._store.acquire(_key(name), timeout, self._guard.stopping)
            if not held:
                self._guard.check()
                raise TimeoutError(f"lock {name!r} was not free after {timeout} s")
            yield
        finally:
            if held:
                with self._guard.uninterrupted:
                    self._store.release(name, thread)

    def _versions(self) -> dict[str, int]:
        with self._guard.uninterrupted:
            return self._store.versions()

    def _read(self, key: str) -> Entry | None:
        with self._guard.uninterrupted:
            return self._store.read(_key(key))

    def _write(self, key: str, value: Any, version: int | None) -> bool:
        with self._guard.uninterrupted:
            self._guard.admit()
            return self._store.write(_key(key), value, version, self._writer)

    def _remove(self, key: str, version: int) -> bool:
        with self._guard.uninterrupted:
            self._guard.admit()
            return self._store.remove(_key(key), version, self._writer)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise StateError(f"a key is a string, not {key!r} of type {type(key).__name__!r}")
    return key
