"""The key/value map that steps and tests share (gsd: State, a sync.Map).

`State` is the handle that users see. It uses a few primitive operations of a `Store`. Writes can
depend on the version of an entry, so the same handle also works with a store in another process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any, TypeVar, get_origin, overload

from pytest_plan.engine.definition.names import Names
from pytest_plan.engine.model.durations import Duration, parse_duration
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.shared.store import ABSENT, Entry, Guard, LocalStore, Store

T = TypeVar("T")
D = TypeVar("D")

__tracebackhide__ = True  # makes pytest show the refused line of the test, not this module


class State(MutableMapping[str, Any]):
    """The values that steps and tests share. Every method is thread-safe.

    To change a value, set its key: the State does not notice changes made to a stored object. Each
    method is atomic, except `update` and `clear`, which handle one key at a time.

    Keys are strings. The key named after a step belongs to that step. If steps of sibling folders
    have the same name, the key is that of the step that is visible to the test or step. A write
    raises `StateError` if the key is not a string or belongs to another step, or if a test writes
    after cleanup has begun. In a forked copy of the process, every method raises `StateError`,
    except that the values of the steps that the running test needs can be read.
    """

    __module__ = "pytest_plan"

    def __init__(
        self,
        store: Store | None = None,
        *,
        writer: str | None = None,
        guard: Guard | None = None,
        names: Names | None = None,
    ) -> None:
        self._store: Store = LocalStore() if store is None else store
        self._writer = writer
        self._guard = guard or Guard()
        self._names = names

    def __getitem__(self, key: str) -> Any:
        """Return the value of `key`; raise KeyError if it is missing (gsd: Load)."""
        entry = self._read(key)
        if entry is None:
            raise KeyError(self._why_missing(key) or key)
        return entry.value

    def __setitem__(self, key: str, value: Any) -> None:
        """Set the value of `key` (gsd: Store)."""
        self._write(key, value, None)

    def __delitem__(self, key: str) -> None:
        """Remove `key`; raise KeyError if it is missing (gsd: Delete)."""
        while True:
            version = self._versions().get(self._key(key))
            if version is None:
                raise KeyError(key)
            if self._remove(key, version):
                return

    def __contains__(self, key: object) -> bool:
        with contextlib.suppress(KeyError):  # the step has several instances
            return (self._key(key) if isinstance(key, str) else key) in self._versions()
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._shown(self._versions()))

    def __len__(self) -> int:
        return len(self._versions())

    def __repr__(self) -> str:
        with contextlib.suppress(StateError):  # a value cannot be read in this process
            return f"State({self.snapshot()!r})"
        with contextlib.suppress(StateError):  # this process is a forked copy
            return f"State(keys: {', '.join(self)})"
        return "State(...)"

    @overload
    def get(self, key: str, default: None = None) -> Any | None: ...
    @overload
    def get(self, key: str, default: D) -> Any | D: ...
    @overload
    def get(self, key: str, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, default: D, *, type: type[T]) -> T | D: ...
    def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:
        """Return the value of `key`, or `default` if it is missing (gsd: Get).

        Args:
            key: the key.
            default: the value to return if `key` is missing.
            type: the class of which the value must be an instance, so that type checkers know the
                type of the result; of `list[str]`, only `list` is checked. None means any.

        Raises:
            StateError: the value is not an instance of `type`. A value of None is returned if
                `default` is None.
        """
        try:
            value = self[key]
        except KeyError:
            return default
        if type is None or isinstance(value, get_origin(type) or type):
            return value
        if value is None and default is None:
            return None
        raise StateError(
            f"the value of {key!r} is of type {value.__class__.__name__!r}, not "
            f"{getattr(type, '__name__', str(type))!r}"
        )

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`; if it is missing, set it to `default` (gsd: LoadOrStore)."""
        while True:
            entry = self._read(key)
            if entry is not None:
                return entry.value
            if self._write(key, default, ABSENT):
                return default

    def pop(self, key: str, *default: Any) -> Any:
        """Remove `key` and return its value (gsd: LoadAndDelete).

        Args:
            key: the key.
            default: the value to return if `key` is missing.

        Raises:
            KeyError: `key` is missing and no default was given.
            TypeError: more than one default was given.
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
        """Remove every key that does not belong to a step (gsd: Clear)."""
        for key in self:
            with contextlib.suppress(KeyError, StateError):
                del self[key]

    def swap(self, key: str, value: Any) -> Any:
        """Set `key` and return its previous value, or None if it was missing (gsd: Swap)."""
        while True:
            entry = self._read(key)
            if self._write(key, value, ABSENT if entry is None else entry.version):
                return None if entry is None else entry.value

    def compare_and_swap(self, key: str, old: Any, new: Any) -> bool:
        """Set `key` to `new` if its value equals `old` (gsd: CompareAndSwap).

        The calling process compares the values with `==`.

        Returns:
            True if the value was set; False if the values differ or `key` is missing.
        """
        while True:
            entry = self._read(key)
            if entry is None or not _equal(entry.value, old):
                return False
            if self._write(key, new, entry.version):
                return True

    def compare_and_delete(self, key: str, old: Any) -> bool:
        """Remove `key` if its value equals `old` (gsd: CompareAndDelete).

        The calling process compares the values with `==`.

        Returns:
            True if the key was removed; False if the values differ or `key` is missing.
        """
        while True:
            entry = self._read(key)
            if entry is None or not _equal(entry.value, old):
                return False
            if self._remove(key, entry.version):
                return True

    def snapshot(self) -> dict[str, Any]:
        """Return a consistent copy of all entries (gsd: Range)."""
        with self._guard.uninterrupted:
            return self._shown(self._store.snapshot())

    def wait_for(self, key: str, timeout: Duration | None = None) -> Any:
        """Wait until `key` has a value, and return the value.

        Args:
            key: the key.
            timeout: the maximum time to wait, such as 2, "2s" or "1m 30s"; None means until the
                plan stops the caller.

        Raises:
            PlanDefinitionError: `timeout` is not a duration.
            KeyError: a test waits for the value of a step that begins only after the test.
            TimeoutError: the key was not set within `timeout`.
            PlanError: the plan stopped the calling hook, as in `Context.check`.
        """
        seconds = _seconds(timeout, "wait_for")
        if (reason := self._why_missing(key)) is not None:
            raise KeyError(reason)
        with self._guard.uninterrupted:
            entry = self._store.wait(self._key(key), seconds, self._guard.stopping)
        if entry is not None:
            return entry.value
        self._guard.check()
        raise TimeoutError(f"timed out after {seconds} s: the State has no key {key!r}")

    @contextlib.contextmanager
    def lock(self, name: str, timeout: Duration | None = None) -> Iterator[None]:
        """Hold the lock `name` for the body of the `with` statement.

        Only one test or step of the run can hold the lock at a time.

        Args:
            name: the name of the lock, any string; lock names are unrelated to keys.
            timeout: the maximum time to wait, such as 2, "2s" or "1m 30s"; None means until the
                plan stops the caller.

        Raises:
            PlanDefinitionError: `timeout` is not a duration.
            TimeoutError: the lock was not free within `timeout`.
            StateError: this thread already holds the lock.
            PlanError: the plan stopped the calling hook, as in `Context.check`.
        """
        seconds = _seconds(timeout, "lock")
        held, thread = False, threading.get_ident()
        try:
            with self._guard.uninterrupted:
                self._guard.admit()
                held = self._store.acquire(_key(name), seconds, self._guard.stopping)
            if not held:
                self._guard.check()
                raise TimeoutError(f"lock {name!r} was not free after {seconds} s")
            yield
        finally:
            if held:
                with self._guard.uninterrupted:
                    self._store.release(name, thread)

    def _versions(self) -> dict[str, int]:
        with self._guard.uninterrupted:
            return self._store.versions()

    def _key(self, name: str) -> str:
        """Return the key in the store that `name` means here."""
        return _key(name) if self._names is None else self._names.key(_key(name))

    def _why_missing(self, name: str) -> str | None:
        return None if self._names is None else self._names.why_missing(name)

    def _shown(self, values: dict[str, T]) -> dict[str, T]:
        """Return values of the store by the names that mean their keys here."""
        names = self._names
        return values if names is None else {names.shown(key): values[key] for key in values}

    def _read(self, key: str) -> Entry | None:
        with self._guard.uninterrupted:
            return self._store.read(self._key(key))

    def _write(self, key: str, value: Any, version: int | None) -> bool:
        with self._guard.uninterrupted:
            self._guard.admit()
            return self._store.write(self._key(key), value, version, self._writer)

    def _remove(self, key: str, version: int) -> bool:
        with self._guard.uninterrupted:
            self._guard.admit()
            return self._store.remove(self._key(key), version, self._writer)


def seen_through(state: State, names: Names) -> State:
    """Return the same State, in which names mean what `names` says."""
    return State(state._store, writer=state._writer, guard=state._guard, names=names)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def _seconds(timeout: Duration | None, method: str) -> float | None:
    return None if timeout is None else parse_duration(timeout, f"State.{method}: timeout")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise StateError(f"a key must be a string, not {key!r} of type {type(key).__name__!r}")
    return key
