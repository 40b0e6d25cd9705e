"""Secrets, and the masker that removes them from output.

A `Secret` never shows its value. A `Masker` replaces the values of known secrets in text.
"""

from __future__ import annotations

import base64
import threading
import urllib.parse
from typing import Generic, TypeVar

T = TypeVar("T")

MASK = "***"
KEY_VARIABLE = "PYTEST_PLAN_KEY"  # holds the key of journals, which no program inherits
_SHORTEST = 4  # masking shorter text would turn ordinary output into asterisks


class Secret(Generic[T]):
    """A value that is always shown as `***` and never written to the journal.

    The step's fixture and `reveal()` return the value itself.

    Args:
        value: the value to hide. If it is text or bytes of 4 characters or more, other output is
            masked as well, whether it contains the value as is, URL-quoted or base64-encoded.
    """

    __module__ = "pytest_plan"

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[type[Secret[T]], tuple[T]]:
        return Secret, (self._value,)


def reveal(value: object) -> object:
    """Return the value inside a `Secret`; return any other value unchanged."""
    return value.reveal() if isinstance(value, Secret) else value


class Masker:
    """Replaces known secrets in text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: tuple[str, ...] = ()  # written only under _lock; read without it

    def learn(self, value: object) -> None:
        """Mask `value` from now on if it is a `Secret` whose value can be masked."""
        if not isinstance(value, Secret):
            return
        forms = _forms(value.reveal())
        with self._lock:
            self._texts = tuple(sorted({*self._texts, *forms}, key=len, reverse=True))

    def mask(self, text: str) -> str:
        """Return `text` with every known secret replaced by `***`."""
        for secret in self._texts:
            text = text.replace(secret, MASK)
        return text


def _forms(value: object) -> set[str]:
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogateescape")
    elif isinstance(value, bytes):
        raw = value
    else:
        return set()
    text = raw.decode("utf-8", "surrogateescape")
    if len(text) < _SHORTEST:
        return set()
    return {text, urllib.parse.quote(raw, safe=""), base64.b64encode(raw).decode()}
