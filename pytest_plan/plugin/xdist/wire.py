"""Pickles the values that the controller and its workers exchange.

Both ends of a channel belong to the same run, so no pickle comes from an untrusted source.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
from collections.abc import Iterator
from typing import Any

from execnet import DumpError

from pytest_plan.engine.model.errors import StateError, describe

_LARGE = 16 << 10  # bytes from which a copy takes longer than execnet's serialization


def send(channel: Any, message: tuple[Any, ...]) -> None:
    """Send a message as a pickle if it is small, because execnet alone takes longer.

    Raises:
        OSError: the other end has gone.
    """
    if _carries_much(message):  # a pickle would copy it
        with contextlib.suppress(DumpError):  # its text has lone surrogates
            channel.send(message)
            return
    channel.send(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


def received(message: Any) -> Any:
    """Return the message that the other end has passed to `send`."""
    return pickle.loads(message) if isinstance(message, bytes) else message  # noqa: S301 - see `load`


def _carries_much(message: tuple[Any, ...]) -> bool:
    """Return whether a message carries a large value, as a part or in its answer, or all values."""
    answer = message[-1]
    for part in answer if type(answer) is tuple else message:
        if type(part) is dict or (type(part) is bytes and len(part) > _LARGE):
            return True
    return False


def dump(key: str, value: Any) -> bytes:
    """Return the pickle of a value.

    Raises:
        StateError: the value cannot be pickled; the message names the key and the type.
    """
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise StateError(
            f"the value of {key!r}, of type {type(value).__qualname__!r}, cannot be pickled and so "
            f"cannot be shared with other processes: {describe(error)}"
        ) from error


def load(data: bytes) -> Any:
    """Return the value in a pickle that a process of this run has created."""
    return pickle.loads(data)  # noqa: S301 - both ends of the channel are ours


def texts_in(data: bytes) -> Iterator[str]:
    """Yield the texts and bytes in a pickle, which is not loaded."""
    import pickletools  # only a run with workers on other machines needs it

    for _, argument, _ in pickletools.genops(data):
        if isinstance(argument, str):
            yield argument
        elif isinstance(argument, bytes):
            yield argument.decode("latin-1")


def open_value(key: str, data: bytes, *, imports: bool = True) -> Any:
    """Return the value of `key` from its pickle.

    Args:
        key: the key.
        data: the pickle.
        imports: whether modules may be imported, other than those of the standard library.

    Raises:
        StateError: this process cannot load the pickle.
    """
    try:
        if imports:
            return pickle.loads(data)  # noqa: S301 - see `load`
        return _Loaded(io.BytesIO(data)).load()
    except Exception as error:
        raise StateError(
            f"the value of {key!r} cannot be read in this process: {describe(error)}"
        ) from error


class _Loaded(pickle.Unpickler):
    """Loads a pickle without importing anything but the standard library."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class of a module that is loaded.

        Raises:
            pickle.UnpicklingError: its module is not loaded.
        """
        if module not in sys.modules and module.partition(".")[0] not in sys.stdlib_module_names:
            raise pickle.UnpicklingError(f"module {module!r} is not loaded")
        return super().find_class(module, name)
