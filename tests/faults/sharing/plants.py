"""Stores with a fault, which the checker of histories must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_plan.sharing.errors import StaleError
from pytest_plan.sharing.model import Access, Kind, Role, Row
from pytest_plan.sharing.protocol import Store


class _Faulty:
    """A store that passes all calls on, but those of its subclass."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _WithoutFencing(_Faulty):
    """A call with a stale epoch is done, as if it had the present one."""

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name not in ("read", "put", "publish", "close", "done"):
            return call

        def unfenced(access: Access, *args: Any, **options: Any) -> Any:
            try:
                return call(access, *args, **options)
            except StaleError as error:
                if error.current is None or error.current.epoch <= access.environment.epoch:
                    raise
                view = self._store.view(access.environment.name)
                if view is None or view.owner is None:
                    raise
                return call(Access(view.environment, view.owner.id), *args, **options)

        return unfenced


class _WithoutCompare(_Faulty):
    """A key is written at any version."""

    def put(self, access: Access, key: str, text: str, version: int | None, **_: str) -> int:
        """Write."""
        return self._store.put(access, key, text, None)


class _WithStaleReads(_Faulty):
    """A client reads each key once in each epoch."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._seen: dict[Any, Row | None] = {}

    def read(self, access: Access, kind: Kind, key: str) -> Row | None:
        """Read, or return what was read before."""
        fresh = self._store.read(access, kind, key)
        return self._seen.setdefault((access.environment, key), fresh)


class _WithoutLock(_Faulty):
    """Everybody acquires every lock."""

    def acquire(self, *_: object) -> bool:
        """Acquire nothing."""
        return True

    def release(self, *_: object) -> None:
        """Release nothing."""


class _WithoutWaiting(_Faulty):
    """An owner sees no members, and closes at once."""

    def view(self, name: str) -> Any:
        """Look."""
        found = self._store.view(name)
        return found and found._replace(members=())

    def renew(self, access: Access) -> Any:
        """Renew."""
        return self._store.renew(access)._replace(members=())

    def close(self, access: Access, **_: Any) -> Any:
        """Close."""
        return self._store.close(access, anyway=True)


class _WithManyOwners(_Faulty):
    """Every member takes itself for the owner."""

    def join(self, *args: Any) -> Any:
        """Join."""
        found = self._store.join(*args)
        return found._replace(role=Role.OWNER) if found.role is Role.MEMBER else found


class _WithoutMemory(_Faulty):
    """A write that has no answer is repeated as another write, and not as the same."""

    def put(self, access: Access, key: str, text: str, version: int | None, **_: str) -> int:
        """Write, and lose the answer now and then."""
        answer = self._store.put(access, key, text, version)
        is_lost = hash(text) % 8 == 0
        return self._store.put(access, key, text, version) if is_lost else answer


PLANTS: dict[str, Callable[[Store], Any]] = {
    "no fencing": _WithoutFencing,
    "no compare": _WithoutCompare,
    "stale reads": _WithStaleReads,
    "no lock": _WithoutLock,
    "no wait for members": _WithoutWaiting,
    "many owners": _WithManyOwners,
    "repeated writes": _WithoutMemory,
}
FOUND = {
    "no fencing": "although it had begun after",
    "no compare": "writes of",
    "stale reads": "goes back behind",
    "no lock": "has acquired the lock that",
    "no wait for members": "closed while the lease of",
    "many owners": "provision ",
    "repeated writes": "which the store had not done",
}  # what the checker says of each
