"""Functions for the scripts of other processes, which get a store by their arguments."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pytest_plan.sharing.errors import StaleError  # noqa: F401 - for scripts
from pytest_plan.sharing.model import Access, Joined, Kind, Lock, Row  # noqa: F401 - for scripts
from pytest_plan.sharing.protocol import Store
from pytest_plan.sharing.urls import open_store
from tests.sharing.runs import join


def opened() -> tuple[Store, str]:
    """Return the store and the name of the environment: the first three arguments."""
    url, folder, name = sys.argv[1:4]
    return open_store(url, Path(folder)), name


def say(value: Any) -> None:
    """Print a value as JSON."""
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


def hear() -> str:
    """Wait for a line."""
    return sys.stdin.readline().strip()


def joined(lease: float = 60.0) -> tuple[Store, Joined]:
    """Join, and print the role, the epoch and the id."""
    store, name = opened()
    found = join(store, name, lease=lease)
    say([found.role.value, found.view.environment.epoch, found.access.member])
    return store, found


def count(store: Store, access: Access, times: int) -> None:
    """Increment the key `n` by compare-and-swap."""
    done = 0
    while done < times:
        row = store.read(access, Kind.STATE, "n")
        value, version = (int(row.text), row.version) if row else (0, 0)
        done += store.put(access, "n", str(value + 1), version) != 0
