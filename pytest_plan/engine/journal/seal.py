"""The key with which a user seals journals, and the seals of one journal.

A seal proves that the owner of the key wrote a row of this journal. Another user, or the author of
a clone or an archive, cannot make one. This module uses `_blake2`, because `hashlib` loads OpenSSL.
"""

from __future__ import annotations

import contextlib
import os
import stat
from _blake2 import blake2b
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.secret import KEY_VARIABLE, Secret

_SIZE = 32  # bytes in a key
_SEAL_SIZE = 16  # bytes in a seal
_DIGITS = frozenset("0123456789abcdefABCDEF")


class Seal:
    """Makes the seals of one journal.

    Args:
        key: the key of the user.
        journal_id: the random id of the journal, so that no row is valid in another journal.
    """

    def __init__(self, key: bytes, journal_id: str) -> None:
        self._start = blake2b(ascii(journal_id).encode(), digest_size=_SEAL_SIZE, key=key)

    def __call__(self, table: str, *values: Any) -> bytes:
        """Return the seal of a row: of its table, and of the values in it with their types."""
        state = self._start.copy()
        contents: list[bytes] = []
        if bytes in map(type, values):  # their text would be several times as long
            contents = [value for value in values if type(value) is bytes]
            values = tuple((len(one),) if type(one) is bytes else one for one in values)
        state.update(ascii((table, values)).encode())
        for content in contents:
            state.update(content)
        return state.digest()


class Key:
    """The key with which this user seals journals. It is read or made when it is first used.

    Args:
        text: the key as 64 hexadecimal digits; None means the file `pytest-plan/key` in the
            user's state folder, which is created if it is missing.

    Raises:
        PlanDefinitionError: `text` is not a key; the message contains its source but not the text.
    """

    def __init__(self, text: str | None = None) -> None:
        if text is not None and not _is_key(text):
            raise PlanDefinitionError(
                f"environment variable {KEY_VARIABLE}: a key has {2 * _SIZE} hexadecimal digits; "
                "to make one: openssl rand -hex 32"
            )
        self._text = text

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Key:
        """Return the key in the variable PYTEST_PLAN_KEY, or else that of the state folder.

        Raises:
            PlanDefinitionError: the variable contains no key.
        """
        return cls(environ.get(KEY_VARIABLE) or None)

    @property
    def given(self) -> Secret[str] | None:
        """The text of PYTEST_PLAN_KEY, which no output may show; None if it was not set."""
        return None if self._text is None else Secret(self._text)

    @property
    def hex(self) -> str:
        """The key as hexadecimal digits."""
        return self._found[0].hex()

    @property
    def problem(self) -> str | None:
        """Why the key exists only in this process and its reaper; None if it lasts."""
        return self._found[1]

    def seal(self, journal_id: str) -> Seal:
        """Return what makes the seals of the journal with this id."""
        return Seal(self._found[0], journal_id)

    @cached_property
    def _found(self) -> tuple[bytes, str | None]:
        if self._text is not None:
            return bytes.fromhex(self._text), None
        try:
            return _of_folder(_state_folder() / "pytest-plan"), None
        except _UnusableError as error:
            return os.urandom(_SIZE), str(error)
        except OSError as error:
            where = "" if error.filename is None else f"{os.fspath(error.filename)}: "
            return os.urandom(_SIZE), f"{where}{error.strerror or error}"


class UnknownSecrets:
    """The secrets that an earlier run knew, and of which this run may know only some.

    Args:
        seals: what `seal_secrets` has returned in the earlier run.
        seal: the seal of the journal.
        known: a function that returns the secrets that this run knows so far.
    """

    def __init__(
        self, seals: Iterable[str], seal: Seal, known: Callable[[], Collection[str]]
    ) -> None:
        self._unknown = set(seals)
        self._seal = seal
        self._known = known
        self._count = 0  # how many secrets were known when it was looked last

    def __bool__(self) -> bool:
        if not self._unknown:
            return False
        known = self._known()
        if len(known) != self._count:
            self._count = len(known)
            self._unknown.difference_update(seal_secrets(known, self._seal))
        return bool(self._unknown)


def seal_secrets(texts: Iterable[str], seal: Seal) -> list[str]:
    """Return what proves, to the owner of the key, that a text is one of these secrets."""
    return sorted(seal("secret", text).hex() for text in texts)


class _UnusableError(Exception):
    """The file or folder of the key is not private to this user."""


def _state_folder() -> Path:
    """Return the folder in which programs of this user keep their state."""
    given = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME", "")
    # The specification says to ignore a relative path.
    folder = given if os.path.isabs(given) else os.path.expanduser("~/.local/state")
    if not os.path.isabs(folder):
        raise _UnusableError("the home folder of this user is unknown: set HOME")
    return Path(folder)


def _of_folder(folder: Path) -> bytes:
    with contextlib.suppress(FileExistsError):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    _check(folder, folder.lstat(), stat.S_ISDIR, 0o022)
    try:
        return _read(folder / "key")
    except FileNotFoundError:
        _make(folder)
        return _read(folder / "key")


def _read(file: Path) -> bytes:
    # Without O_NONBLOCK, opening a named pipe would wait for its other end.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    _check(file, file.lstat(), stat.S_ISREG, 0o077)
    descriptor = os.open(file, flags | getattr(os, "O_CLOEXEC", 0))
    try:
        _check(file, os.fstat(descriptor), stat.S_ISREG, 0o077)
        text = os.read(descriptor, 3 * _SIZE).decode("latin-1").strip()
    finally:
        os.close(descriptor)
    if not _is_key(text):
        raise _UnusableError(f"{file} does not contain {2 * _SIZE} hexadecimal digits; remove it")
    return bytes.fromhex(text)


def _is_key(text: str) -> bool:
    return len(text) == 2 * _SIZE and _DIGITS.issuperset(text)


def _make(folder: Path) -> None:
    """Create a key, unless another process does so at the same time."""
    unfinished = folder / f"key.{os.urandom(8).hex()}"
    descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        try:
            os.write(descriptor, f"{os.urandom(_SIZE).hex()}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, folder / "key")  # unlike a rename, this replaces nothing
    finally:
        unfinished.unlink()


def _check(path: Path, status: os.stat_result, is_kind: Any, others: int) -> None:
    if not is_kind(status.st_mode):
        raise _UnusableError(f"{path} is a link, or another kind of file; remove it")
    if not hasattr(os, "geteuid"):
        return
    if status.st_uid != os.geteuid():
        raise _UnusableError(f"{path} belongs to user {status.st_uid}; remove it")
    if status.st_mode & others:
        mode = f"{status.st_mode & 0o777:04o}"
        raise _UnusableError(f"{path} is accessible to other users (mode {mode}); remove it")
