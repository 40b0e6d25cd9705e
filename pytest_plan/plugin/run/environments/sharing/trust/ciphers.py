"""Encrypts rows of a shared environment, so that only runs with the same key can read them."""

from __future__ import annotations

import base64
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.model.secret import KEY_VARIABLE

if TYPE_CHECKING:
    from pytest_plan.engine.journal.seal import Key
    from pytest_plan.sharing.model import EnvironmentId, Row

_BEGIN, _END = '{"$": "encrypted", "of": "', '"}'
_NONCE = 12  # bytes
_ENCODING = ("utf-8", "surrogatepass")


class RowCipher:
    """Encrypts and decrypts rows. A row is valid only in its environment, and under its key.

    Args:
        environment: the environment.
        key: the key of this process. Without PYTEST_PLAN_KEY, it is that of the user's state
            folder, which only other processes of this user on this machine know.
        is_local: whether all runs are on this machine.

    All errors are `StateError`, and their message is the end of a sentence about a row.
    """

    def __init__(self, environment: EnvironmentId, key: Key, *, is_local: bool) -> None:
        self._environment = environment
        self._key = key
        self._is_local = is_local

    @property
    def has_key(self) -> bool:
        """Whether all runs can have the key."""
        return self._is_local or self._key.given is not None

    def encrypted(self, row: Row) -> Row:
        """Return a row with its text encrypted; equal texts do not look equal.

        Raises:
            StateError: there is no key that other runs have, or a library is missing.
        """
        nonce = os.urandom(_NONCE)
        data = nonce + self._aead.encrypt(nonce, row.text.encode(*_ENCODING), _place(row))
        return row._replace(text=f"{_BEGIN}{base64.b64encode(data).decode()}{_END}")

    def decrypted(self, row: Row) -> Row:
        """Return a row as it was before `encrypted`.

        Raises:
            StateError: it was encrypted with another key or for another row, or was changed; or
                see `encrypted`.
        """
        aead = self._aead
        from cryptography.exceptions import InvalidTag

        try:
            data = base64.b64decode(row.text[len(_BEGIN) : -len(_END)], validate=True)
            text = aead.decrypt(data[:_NONCE], data[_NONCE:], _place(row))
        except (InvalidTag, ValueError):
            raise StateError(
                f"was encrypted with another key, or was changed; set {KEY_VARIABLE} to the same "
                "secret in all runs"
            ) from None
        return row._replace(text=text.decode(*_ENCODING))

    @cached_property
    def _aead(self) -> Any:
        if not self.has_key:
            raise StateError(
                f"contains a secret: set {KEY_VARIABLE} to the same secret in all runs, so that it "
                "is published encrypted (to make one: openssl rand -hex 32)"
            )
        if problem := self._key.problem:
            raise StateError(f"contains a secret, and there is no key to encrypt it: {problem}")
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise StateError(
                "contains a secret, and to encrypt it, pytest-plan needs the library cryptography "
                f"({error}); install it: pip install 'pytest-plan[share]'"
            ) from None
        seal = self._key.seal(f"secrets {self._environment.name} {self._environment.id}")
        return AESGCM(seal("key", 1) + seal("key", 2))


def is_encrypted(row: Row) -> bool:
    """Return whether a row looks as those that `RowCipher.encrypted` returns."""
    return row.text.startswith(_BEGIN)


def _place(row: Row) -> bytes:
    return f"{row.kind.value} {row.key}".encode(*_ENCODING)
