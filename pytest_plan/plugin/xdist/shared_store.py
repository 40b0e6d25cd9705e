"""The State of the controller, which workers share.

A value is pickled once, when it is set, on the thread that sets it. The controller forwards the
pickle as it is and opens it only when one of its own steps asks for the value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.shared.store import Entry, Holder, LocalStore, Prepared
from pytest_plan.plugin.xdist.pending import Parking
from pytest_plan.plugin.xdist.wire import dump, open_value

__tracebackhide__ = True  # as in engine/state.py

_UNOPENED = object()


class Shared:
    """A value with its pickle; one that cannot be pickled serves this process alone."""

    __slots__ = ("_data", "_error", "_value")

    def __init__(self, value: Any, data: bytes | None, error: str | None) -> None:
        self._value = value
        self._data = data
        self._error = error

    @classmethod
    def of_value(cls, key: str, value: Any) -> Shared:
        """Return a value of this process, pickled if that can be."""
        try:
            return cls(value, dump(key, value), None)
        except StateError as error:
            return cls(value, None, str(error))

    @classmethod
    def of_data(cls, data: bytes) -> Shared:
        """Return a value that came from a worker."""
        return cls(_UNOPENED, data, None)

    def value(self, key: str) -> Any:
        """Return the value; raise StateError when a worker's cannot be read here."""
        if self._value is _UNOPENED:
            assert self._data is not None
            self._value = open_value(key, self._data)
        return self._value

    def lasting(self, key: str, lasting: Callable[[Any], Any]) -> Any:
        """Return what the journal needs of the value, or a function that does."""
        if self._value is not _UNOPENED:
            return lasting(self._value)

        def opened() -> Any:
            try:
                return lasting(self.value(key))
            except StateError:
                return lasting(_UNOPENED)  # an object without a meaning: it cannot be written

        return opened

    def data(self) -> bytes:
        """Return the pickle; raise StateError when there is none."""
        if self._data is None:
            raise StateError(self._error)
        return self._data


class SharedStore(LocalStore):
    """A store that answers workers as well."""

    def __init__(self) -> None:
        super().__init__()
        self.parking = Parking()

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`, its value opened."""
        return _opened(key, super().read(key))

    def prepare(self, key: str, value: Any) -> Prepared:
        """Pickle a value of this process."""
        self._learn(value)
        shared = Shared.of_value(key, value)
        return Prepared(shared, self._lasting(key, shared))

    def commit(self, key: str, prepared: Prepared, version: int | None, writer: str | None) -> bool:
        """Write what `prepare` returned, if `version` still holds, and answer those who wait."""
        done = super().commit(key, prepared, version, writer)
        self.parking.sweep()
        return done

    def remove(self, key: str, version: int, writer: str | None) -> bool:
        """Remove `key` if `version` still holds."""
        done = super().remove(key, version, writer)
        self.parking.sweep()
        return done

    def snapshot(self) -> dict[str, Any]:
        """Return all values at one moment, opened."""
        return {key: shared.value(key) for key, shared in super().snapshot().items()}

    def wait(self, key: str, timeout: float | None, stopping: Callable[[], bool]) -> Entry | None:
        """Return the entry once there is one, its value opened."""
        return _opened(key, super().wait(key, timeout, stopping))

    def _lasting(self, key: str, value: Shared) -> Any:
        # What came from a worker is opened by the journal's writer, not where others wait for it.
        return value.lasting(key, self._journal.lasting)

    def release_held(self, name: str, holder: Holder) -> None:
        """Give the lock `name` back if `holder` has it."""
        super().release_held(name, holder)
        self.parking.sweep()

    def read_data(self, key: str) -> tuple[int, bytes] | None:
        """Return version and pickle of `key`, None when absent."""
        entry = super().read(key)
        return None if entry is None else (entry.version, entry.value.data())

    def write_data(self, key: str, data: bytes, version: int | None) -> bool:
        """Write a worker's value if `version` still holds."""
        shared = Shared.of_data(data)
        return self.commit(key, Prepared(shared, self._lasting(key, shared)), version, None)

    def snapshot_data(self) -> dict[str, bytes]:
        """Return the pickles of all values at one moment."""
        return {key: shared.data() for key, shared in super().snapshot().items()}

    def refuse_again(self, name: str, worker: str, thread: int) -> None:
        """Raise StateError when that thread of the worker holds the lock already."""
        with self._changed:
            self._is_free(name, (worker, thread))

    def try_acquire(self, name: str, worker: str, thread: int) -> bool:
        """Take the lock `name` for a thread of a worker, if it is free."""
        with self._changed:
            return self._is_free(name, (worker, thread)) and self._take(name, (worker, thread))

    def free(self, worker: str) -> None:
        """Give back every lock of a worker that is gone, and drop its requests."""
        self.parking.drop(worker)
        with self._changed:
            self._holders = {
                name: holder for name, holder in self._holders.items() if holder[0] != worker
            }
            self._changed.notify_all()
        self.parking.sweep()


def _opened(key: str, entry: Entry | None) -> Entry | None:
    return None if entry is None else Entry(entry.version, entry.value.value(key))
