"""The controller's State, which its workers share.

A value is pickled once, when it is set, on the thread that sets it. The controller forwards the
pickle unchanged and loads it only when one of its own steps reads the value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.model.secret import Secret
from pytest_plan.engine.shared.store import Entry, Holder, LocalStore, Prepared
from pytest_plan.plugin.xdist.pending import PendingRequests
from pytest_plan.plugin.xdist.wire import dump, open_value

__tracebackhide__ = True  # as in engine/shared/state.py

_UNOPENED = object()


class Shared:
    """A value and its pickle; a value that cannot be pickled is available in this process only."""

    __slots__ = ("_data", "_error", "_value")

    def __init__(self, value: Any, data: bytes | None, error: str | None) -> None:
        self._value = value
        self._data = data
        self._error = error

    @classmethod
    def of_value(cls, key: str, value: Any) -> Shared:
        """Return a value that this process sets, with its pickle if possible."""
        try:
            return cls(value, dump(key, value), None)
        except StateError as error:
            return cls(value, None, str(error))

    def value(self, key: str) -> Any:
        """Return the value; raise StateError if a worker's value cannot be loaded here."""
        if self._value is _UNOPENED:
            self._value = open_value(key, self._bytes())
        return self._value

    def _bytes(self) -> bytes:
        assert self._data is not None  # it is None only for a value of this process
        return self._data

    def lasting(self, key: str, lasting: Callable[[Any], Any]) -> Any:
        """Return `lasting` of the value as it is now, or a function that computes it later."""
        value, data = self._value, self._data
        if data is None:
            return lasting(value)

        def opened() -> Any:
            # No step asked for this value: importing its module, such as that of a test, would run
            # the module's code in this process.
            try:
                return lasting(open_value(key, data, imports=False))
            except StateError:
                return lasting(value)  # of a worker, it is recorded as one that cannot be written

        return opened

    def data(self) -> bytes:
        """Return the pickle; raise StateError if the value cannot be pickled."""
        if self._data is None:
            raise StateError(self._error)
        return self._data


class SharedStore(LocalStore):
    """A store that also serves workers.

    Attributes:
        pending: the requests of workers that wait for a key, a lock or a decision.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pending = PendingRequests()

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key` with its value, or None if there is none."""
        return _opened(key, super().read(key))

    def prepare(self, key: str, value: Any) -> Prepared:
        """Pickle a value that this process sets."""
        self._learn(value)
        shared = Shared.of_value(key, value)
        return Prepared(shared, self._lasting(key, shared))

    def commit(self, key: str, prepared: Prepared, version: int | None, writer: str | None) -> bool:
        """Write the prepared value if `key` is still at `version`, and answer waiting workers."""
        done = super().commit(key, prepared, version, writer)
        self.pending.answer_ready()
        return done

    def remove(self, key: str, version: int, writer: str | None) -> bool:
        """Remove `key` if it is still at `version`."""
        done = super().remove(key, version, writer)
        self.pending.answer_ready()
        return done

    def snapshot(self) -> dict[str, Any]:
        """Return a consistent copy of all values."""
        return {key: shared.value(key) for key, shared in super().snapshot().items()}

    def wait(self, key: str, timeout: float | None, stopping: Callable[[], bool]) -> Entry | None:
        """Return the entry of `key` as soon as there is one; see `Store.wait`."""
        return _opened(key, super().wait(key, timeout, stopping))

    def _lasting(self, key: str, value: Shared) -> Any:
        # The journal's writer loads the pickle, if it needs it, and not the thread that has set it.
        return value.lasting(key, self._journal.lasting)

    def release_held(self, name: str, holder: Holder) -> None:
        """Release the lock `name` if `holder` holds it."""
        super().release_held(name, holder)
        self.pending.answer_ready()

    def read_data(self, key: str) -> tuple[int, bytes] | None:
        """Return the version and the pickle of `key`, or None if there is no entry."""
        entry = self._entries.get(key)  # one lookup is atomic
        return None if entry is None else (entry.version, entry.value.data())

    def steps_data(self, names: Iterable[str]) -> dict[str, tuple[int, bytes] | str | None]:
        """Return the versions and pickles of the values of steps, or why there is no pickle."""
        found: dict[str, tuple[int, bytes] | str | None] = {}
        for name in names:
            try:
                found[name] = self.read_data(name)
            except StateError as error:
                found[name] = str(error)
        return found

    def write_data(
        self, key: str, data: bytes, version: int | None, secrets: Collection[str] = ()
    ) -> bool:
        """Write a worker's value if the entry is still at `version`.

        Args:
            key: the key.
            data: the pickle of the value.
            version: the expected version; see `Store.write`.
            secrets: the texts that the value hides and that are masked from now on. The pickle
                itself is not loaded here.
        """
        if secrets:
            self._learn([Secret(text) for text in secrets if len(text) > 3])
        shared = Shared(_UNOPENED, data, None)  # it is loaded when a step reads it
        lasting = shared.lasting(key, self._journal.lasting)
        return self.commit(key, Prepared(shared, lasting), version, None)

    def snapshot_data(self) -> dict[str, bytes]:
        """Return a consistent copy of the pickles of all values."""
        return {key: shared.data() for key, shared in super().snapshot().items()}

    def refuse_again(self, name: str, worker: str, thread: int) -> None:
        """Raise StateError if the given thread of the worker already holds the lock."""
        with self._lock:
            self._is_free(name, (worker, thread))

    def try_acquire(self, name: str, worker: str, thread: int) -> bool:
        """Take the lock `name` for a worker's thread if it is free; return whether it was free."""
        with self._lock:
            return self._is_free(name, (worker, thread)) and self._take(name, (worker, thread))

    def free(self, worker: str) -> None:
        """Release every lock of a worker that has ended, and drop its requests."""
        self.pending.drop(worker)
        with self._lock:
            self._holders = {
                name: holder for name, holder in self._holders.items() if holder[0] != worker
            }
            self._notify()
        self.pending.answer_ready()


def _opened(key: str, entry: Entry | None) -> Entry | None:
    return None if entry is None else Entry(entry.version, entry.value.value(key))
