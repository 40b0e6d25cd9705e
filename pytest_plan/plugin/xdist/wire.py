"""wire."""

from __future__ import annotations

import pickle
from typing import Any

from pytest_plan.engine.model.errors import StateError, describe


def dump(key: str, value: Any) -> bytes:
    """Return the pickle of a value; raise StateError, naming key and type, when it has none."""
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise StateError(
            f"the value of {key!r}, of type {type(value).__qualname__!r}, cannot be pickled and so "
            f"cannot be shared with other processes: {describe(error)}"
        ) from error


def load(data: bytes) -> Any:
    """Return what was pickled by a process of this run."""
    return pickle.loads(data)  # noqa: S301 - both ends of the line are our own


def open_value(key: str, data: bytes) -> Any:
    """Return the value of `key`; raise StateError when its pickle cannot be opened here."""
    try:
        return load(data)
    except Exception as error:
        raise StateError(
            f"the value of {key!r} cannot be read in this process: {describe(error)}"
        ) from error
