"""The store of a State that many runs share: each operation is one of the shared store."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.definition.names import worker_of
from pytest_plan.engine.journal.reference import NotDurableError, Reference, References
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.shared.store import Entry, Holder, LocalStore, Prepared
from pytest_plan.plugin.run.environments.sharing.programs import is_request
from pytest_plan.plugin.run.environments.sharing.trust.secrets import SecretCodec
from pytest_plan.sharing.errors import ClosedError, ShareError, StaleError
from pytest_plan.sharing.model import Kind, Lock, Row

if TYPE_CHECKING:
    from pytest_plan.plugin.run.environments.sharing.link import Link
    from pytest_plan.plugin.run.environments.sharing.trust.secrets import Vault
    from pytest_plan.sharing.model import Access
    from pytest_plan.sharing.protocol import Store

__tracebackhide__ = True  # as in engine/shared/state.py
_POLL = 0.2  # seconds between two looks although no change was notified


class _Loaded(References):
    """References to classes that are loaded already: a value from outside imports nothing."""

    def follow(self, reference: Reference) -> Any:
        """Return the class; raise LookupError if its module is not loaded."""
        module = self._loaded(reference) or sys.modules.get(reference.module)
        found: Any = module
        for part in reference.qualname.split("."):
            found = getattr(found, part, None)
        if found is None:
            raise LookupError(
                f"{reference.qualname!r} of {reference.file or reference.module} is not loaded in "
                "this process; import it in the conftest.py"
            )
        return found


class EnvironmentStore(LocalStore):
    """The store of the State, in a run that shares its environment.

    Before `connect`, the entries are in this process. After it, they are those of the environment;
    this process keeps only a copy of what it has read, for its forked copies. The values of steps
    never change, so they are read from that copy. Thus nothing that the engine does with a lock
    held waits for a server.
    """

    def __init__(self) -> None:
        super().__init__()
        self._link: Link | None = None
        self._codec: SecretCodec | None = None
        self._vault: Vault | None = None
        self._fixed: set[str] = set()  # the steps whose values are known
        self._of_workers: set[str] = set()  # the names, without the worker, of the workers' steps

    @property
    def is_connected(self) -> bool:
        """Whether the entries are those of a shared environment."""
        return self._link is not None

    def reserve(self, key: str) -> None:
        """Reserve `key` for the step of the same name."""
        super().reserve(key)
        if worker_of(key) is not None:
            self._of_workers.add(key.rpartition("@")[0])

    def connect(self, link: Link, references: References, vault: Vault) -> None:
        """Use the entries of a shared environment from now on.

        Args:
            link: the part of this run in the environment.
            references: the references to the classes of values.
            vault: encrypts the values that contain secrets.
        """
        values, self._entries = self.snapshot(), {}
        self._codec = SecretCodec(_Loaded(*references))
        self._vault = vault
        self._link = link
        link.on_change = self.notice
        if link.is_owner:
            for key, value in values.items():
                self.write(key, value, None, key)
        else:
            with self._calls():
                for row in self._rows():
                    with contextlib.suppress(StateError):
                        self._entries[row.key] = self._entry(row)

    def disconnect(self) -> None:
        """Use what this process knows from now on, because the server is silent."""
        self._link = None

    def notice(self) -> None:
        """Make every waiting caller look again, because the environment has changed."""
        self.wake()

    def fix(self, rows: Iterable[Row]) -> None:
        """Take over the values of steps from their rows."""
        for row in rows:
            if row.key in self._reserved:
                with contextlib.suppress(StateError):  # a test that reads it gets the error
                    self._entries[row.key] = self._entry(row)
                    self._fixed.add(row.key)

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`; see `Store.read`."""
        if self._link is None:
            return super().read(key)
        if key not in self._kept:
            self._refuse_copy()
        if key in self._fixed or self._is_copied() or self._is_own(key):
            return self._entries.get(key)
        try:
            with self._calls():
                row = self._link.call(lambda store, access: store.read(access, Kind.STATE, key))
        except StateError:
            if key not in self._reserved or not self._link.is_owner:
                raise
            return self._entries.get(key)  # the engine looks for the value of a failed step
        if row is None:
            self._entries.pop(key, None)
            return None
        known = self._entries.get(key)
        if known is not None and known.version == row.version:
            return known
        entry = self._entries[key] = self._entry(row)
        return entry

    def write(self, key: str, value: Any, version: int | None, writer: str | None) -> bool:
        """Write if the entry is at `version`; see `Store.write`.

        Raises:
            StateError: the value cannot be written as JSON, or `writer` may not write this key.
        """
        if self._link is None:
            return super().write(key, value, version, writer)
        self._refuse_copy()
        self._learn(value)
        entry = self._put(self._row(key, value), version, writer)
        if entry is not None:
            self._note(key, Prepared(entry, self._journal.lasting(value)), writer)
        return entry is not None

    def prepare(self, key: str, value: Any) -> Prepared:
        """Write the value of a step, before the engine takes it over with `commit`.

        Raises:
            StateError: it cannot be written as JSON, or the environment cannot be written.
        """
        if self._link is None:
            return super().prepare(key, value)
        self._learn(value)
        entry = self._put(self._row(key, value), None, key)
        assert entry is not None, "any version was accepted"
        with self._changed:
            self._entries[key] = entry
        return Prepared(entry, self._journal.lasting(value))

    def commit(self, key: str, prepared: Prepared, version: int | None, writer: str | None) -> bool:
        """Take over the value of a step, which `prepare` has written."""
        if self._link is None:
            return super().commit(key, prepared, version, writer)
        self._fixed.add(key)
        self._note(key, prepared, writer)
        return True

    def _is_own(self, key: str) -> bool:
        """Return whether only steps of this run write a key, so that no server has to be asked."""
        assert self._link is not None
        return self._link.is_owner and key in self._reserved

    def _note(self, key: str, prepared: Prepared, writer: str | None) -> None:
        with self._changed:
            self._entries[key] = prepared.value
            self._journal.state_set(key, prepared.lasting, writer)
            self._changed.notify_all()

    def _put(self, row: Row, version: int | None, writer: str | None) -> Entry | None:
        """Write a row to the environment; return the entry, or None if the version is another."""
        assert self._link is not None
        with self._changed:
            self._refuse(row.key, writer)
        with self._calls():
            new = self._link.call(
                lambda store, access: store.put(access, row.key, row.text, version)
            )
        return self._entry(row._replace(version=new)) if new else None

    def remove(self, key: str, version: int, writer: str | None) -> bool:
        """Remove the entry if it is at `version`; see `Store.remove`."""
        if self._link is None:
            return super().remove(key, version, writer)
        self._refuse_copy()
        with self._changed:
            self._refuse(key, writer)
        is_removed = key in self._reserved
        if is_removed:  # the engine forgets the value of a failed step, with its lock held
            self._link.soon(lambda store, access: store.remove(access, key, version))
        else:
            with self._calls():
                is_removed = self._link.call(
                    lambda store, access: store.remove(access, key, version)
                )
        if is_removed:
            with self._changed:
                self._entries.pop(key, None)
                self._fixed.discard(key)
                self._journal.state_removed(key)
                self._changed.notify_all()
        return is_removed

    def versions(self) -> dict[str, int]:
        """Return the versions of all keys; see `Store.versions`."""
        if self._link is None:
            return super().versions()
        self._refuse_copy()
        with self._calls():
            versions = self._link.call(lambda store, access: store.versions(access))
        return {key: version for key, version in versions.items() if self._shows(key)}

    def snapshot(self) -> dict[str, Any]:
        """Return all values; see `Store.snapshot`."""
        if self._link is None:
            return super().snapshot()
        self._refuse_copy()
        with self._calls():
            rows = self._rows()
        return {row.key: self._entry(row).value for row in rows}

    def wait(self, key: str, timeout: float | None, stopping: Callable[[], bool]) -> Entry | None:
        """Wait for an entry and return it; see `Store.wait`."""
        if self._link is None:
            return super().wait(key, timeout, stopping)
        self._refuse_copy()
        for _ in self._looks(timeout):
            if (entry := self.read(key)) is not None or stopping():
                return entry
        return None

    def acquire(self, name: str, timeout: float | None, stopping: Callable[[], bool]) -> bool:
        """Acquire the lock `name`; see `Store.acquire`."""
        if self._link is None:
            return super().acquire(name, timeout, stopping)
        self._refuse_copy()
        me = ("", threading.get_ident())
        for _ in self._looks(timeout):
            if self.take(name, me):
                return True
            if stopping():
                break
        return False

    def take(self, name: str, holder: Holder) -> bool:
        """Acquire the lock `name` of the environment without waiting; return whether it was free.

        Raises:
            StateError: `holder` already holds it.
        """
        assert self._link is not None
        with self._calls():
            is_taken = self._link.call(
                lambda store, access: store.acquire(access, _lock(name, holder))
            )
        if is_taken:
            self._holders[name] = holder
        return is_taken

    def release_held(self, name: str, holder: Holder) -> None:
        """Release the lock `name` if `holder` holds it.

        Raises:
            StateError: the lock was lost.
        """
        if self._link is None:
            super().release_held(name, holder)
        elif self._holders.pop(name, None) is not None:
            with self._calls():
                self._link.call(lambda store, access: store.release(access, _lock(name, holder)))

    def abandon(self, thread: int) -> None:
        """Release every lock that an abandoned thread of this process holds, but wait for none."""
        if self._link is None:
            super().abandon(thread)
            return
        for name, holder in list(self._holders.items()):
            if holder == ("", thread) and self._holders.pop(name, None) is not None:
                self._link.soon(_released(_lock(name, holder)))

    def abandon_all(self, is_gone: Callable[[Holder], bool]) -> None:
        """Release every lock whose holder is gone."""
        for name, holder in list(self._holders.items()):
            if is_gone(holder):
                with contextlib.suppress(StateError):
                    self.release_held(name, holder)

    def _looks(self, timeout: float | None) -> Iterator[None]:
        """Yield at once, after each change, and at the end of the time."""
        until = None if timeout is None else SystemClock.now() + timeout
        while True:
            yield
            left = _POLL if until is None else min(_POLL, until - SystemClock.now())
            if left <= 0:
                return
            with self._changed:
                self._changed.wait(left)

    def _rows(self) -> list[Row]:
        """Return the rows of the keys that this run shows."""
        assert self._link is not None
        rows = self._link.call(lambda store, access: store.rows(access, Kind.STATE))
        return [row for row in rows if self._shows(row.key)]

    def _shows(self, key: str) -> bool:
        """Return whether listings have a key: not a request, nor a worker's step of another run."""
        is_of_worker = key.rpartition("@")[0] in self._of_workers and worker_of(key) is not None
        return key in self._reserved or not (is_of_worker or is_request(key))

    def _row(self, key: str, value: Any) -> Row:
        """Return the row of a value, as others may see it."""
        assert self._codec is not None
        assert self._vault is not None
        try:
            row = Row(Kind.STATE, key, self._codec.encode(value))
        except NotDurableError as error:
            raise StateError(
                f"the value of {key!r} cannot be shared with other runs: {error}; store text, "
                "numbers, lists, dicts, dataclasses or the like, such as a URL instead of a client"
            ) from None
        try:
            return self._vault.encrypted(row)
        except StateError as error:
            raise StateError(f"the value of {key!r} {error}") from None

    def _entry(self, row: Row) -> Entry:
        assert self._codec is not None
        assert self._vault is not None
        try:
            row = self._vault.decrypted(row)
        except StateError as error:
            raise StateError(f"the value of {row.key!r} {error}") from None
        try:
            return Entry(row.version, self._codec.build(self._codec.decode(row.text)))
        except (LookupError, ValueError) as error:
            raise StateError(f"the value of {row.key!r} cannot be read: {error}") from None

    def _calls(self) -> _Calls:
        """Return what turns the errors of the shared store into those of a State."""
        assert self._link is not None
        return _Calls(self._link)


class _Calls:
    """Turns the errors of the shared store into those of a State.

    It is no generator, whose frames in `contextlib` pytest would show.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        if self._link.trouble is not None:
            raise StateError(self._link.trouble)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (ClosedError, StaleError)):
            self._link.fail(str(error))
            raise StateError(self._link.trouble) from None
        if isinstance(error, ShareError):
            raise StateError(str(error)) from None


def _lock(name: str, holder: Holder) -> Lock:
    worker, thread = holder
    return Lock(name, f"{worker} {thread}")


def _released(lock: Lock) -> Callable[[Store, Access], None]:
    return lambda store, access: store.release(access, lock)
