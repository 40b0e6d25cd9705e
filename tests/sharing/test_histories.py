"""Random histories of runs are correct, and the checker finds planted faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_plan.sharing.model import Access, Kind, Role, Row
from pytest_plan.sharing.protocol import Store
from pytest_plan.sharing.urls import open_store
from tests.sharing.conftest import Open
from tests.sharing.histories import faults, history_of
from tests.sharing.servers import Program


class Faulty:
    """A store that passes all calls on, but those of its subclass."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


class WithoutCompare(Faulty):
    """It writes at any version."""

    def put(self, access: Access, key: str, text: str, version: int | None) -> int:
        """Write."""
        return self.store.put(access, key, text, None)


class WithStaleReads(Faulty):
    """It reads each key once for each epoch."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.seen: dict[Any, Row | None] = {}

    def read(self, access: Access, kind: Kind, key: str) -> Row | None:
        """Read, or return what was read before."""
        fresh = self.store.read(access, kind, key)
        return self.seen.setdefault((access.environment, key), fresh)


class WithoutLock(Faulty):
    """Everybody acquires every lock."""

    def acquire(self, *_: object) -> bool:
        """Acquire nothing."""
        return True

    def release(self, *_: object) -> None:
        """Release nothing."""


class WithoutWaiting(Faulty):
    """An owner closes at once."""

    def close(self, access: Access) -> Any:
        """Close."""
        return self.store.close(access, anyway=True)


class WithManyOwners(Faulty):
    """Every member takes itself for the owner."""

    def join(self, *args: Any) -> Any:
        """Join."""
        found = self.store.join(*args)
        return found._replace(role=Role.OWNER) if found.role is Role.MEMBER else found


@pytest.mark.parametrize("url", ["redis", "postgresql"], indirect=True)
def test_random_histories_are_correct(open_: Open) -> None:
    """Runs that come, are stopped and go write linearizably, and provision once in an epoch."""
    history = history_of([open_() for _ in range(4)], 3.0, seed=1)
    assert len(history.of("put")) > 20
    assert faults(history) == []


@pytest.mark.parametrize(
    ("faulty", "fault"),
    [
        (WithoutCompare, "writes of"),
        (WithStaleReads, "goes back behind"),
        (WithoutLock, "has acquired the lock that"),
        (WithoutWaiting, "closed while the lease of"),
        (WithManyOwners, "provision "),
    ],
)
def test_planted_faults_are_found(
    faulty: type[Any], fault: str, redis_program: Program, tmp_path: Path
) -> None:
    """The checker finds a store that does not compare, lock, wait or count owners."""
    stores = [open_store(redis_program.url, tmp_path) for _ in range(4)]
    found: list[str] = []
    for seed in range(10):
        found += faults(history_of([faulty(store) for store in stores], 1.2, seed))
        if any(fault in one for one in found):
            break
    else:
        pytest.fail(f"not found: {found[:3]}")
    for store in stores:
        store.shut()
