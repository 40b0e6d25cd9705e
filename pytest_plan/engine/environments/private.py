"""Creates and checks private folders.

A private folder belongs to the current user and has mode 0700. Neither `plan_dir` nor any folder
below it may be a symbolic link or be on a network file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pytest_plan.engine.model.errors import JournalError

_PRIVATE = 0o700
_CHANGE = 0o022  # write permission for group and others
_OTHERS = 0o077  # any permission for group and others
_LONGEST = 470  # bytes; SQLite allows 512 for a file, with what it appends to its name
TAGS = {
    ".gitignore": "*\n",
    "CACHEDIR.TAG": (
        "Signature: 8a477f597d28d172789f06886806bc55\n"
        "# This folder was created by pytest-plan; it can be removed at any time.\n"
    ),
}
_MOUNTS = Path("/proc/self/mounts")
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs", "ceph"})


def make_private(folder: Path, below: Path) -> None:
    """Create a private folder, and make every folder between it and `below` private.

    Args:
        folder: the folder; it may exist.
        below: a parent of the folder. It is created if it is missing, and then gets a `.gitignore`
            and a CACHEDIR.TAG. Other users may read it but not change it.

    Raises:
        JournalError: a folder cannot be created, is a symbolic link, belongs to another user, can
            be changed by other users, or is on a network file system, or its path is too long. The
            message says what to do.
    """
    if (length := len(os.fsencode(folder))) > _LONGEST:
        raise JournalError(
            f"{folder} has a path of {length} bytes, which is too long for a journal (at most "
            f"{_LONGEST}); set plan_dir to a shorter path"
        )
    _make(below, tagged=True)
    _check(below, others=_CHANGE)
    path = below
    for part in folder.relative_to(below).parts:
        path = path / part
        _make(path)
        _check(path, others=_CHANGE)
        try:
            path.chmod(_PRIVATE)
        except OSError as error:
            text = f"{path} cannot be made private: {error.strerror or error}"
            raise JournalError(text) from error
    _refuse_remote(folder)


def temporary_parent() -> Path:
    """Return the path of a new folder for environments whose `plan_dir` cannot be used."""
    return Path(tempfile.gettempdir()) / f"plan-journal-{os.urandom(6).hex()}"


def _make(path: Path, *, tagged: bool = False) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=_PRIVATE)
        if tagged:
            _tag(path)
    except FileExistsError as error:
        if not path.is_symlink() and not path.is_dir():
            text = f"{path} is not a directory; remove it, or set plan_dir to another path"
            raise JournalError(text) from error
    except OSError as error:
        raise JournalError(f"{path} cannot be created: {error.strerror or error}") from error


def _tag(folder: Path) -> None:
    """Mark a folder that we have created as a cache that is not part of the project."""
    for name, text in TAGS.items():
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(folder / name, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)


def remove_tagged(folder: Path) -> None:
    """Remove a folder that `make_private` has created as `below`, if nothing else is in it."""
    try:
        if set(os.listdir(folder)) == TAGS.keys() and _is_tagged(folder):
            for name in TAGS:
                (folder / name).unlink()
            folder.rmdir()
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process has begun to use it
            with contextlib.suppress(OSError):
                _tag(folder)


def _is_tagged(folder: Path) -> bool:
    file = folder / "CACHEDIR.TAG"
    with contextlib.suppress(OSError):
        return file.lstat().st_size == len(TAGS[file.name]) and file.read_text() == TAGS[file.name]
    return False


def has_private_modes(folder: Path, below: Path) -> bool:
    """Return whether no other user can change `below` or a folder on the way to `folder`."""
    return all(_needed_mode(path) is None for path in _way(folder, below))


def repair_modes(folder: Path, below: Path) -> None:
    """Make `below` and the folders on the way to `folder` usable, and private, where they are ours.

    Raises:
        OSError: a mode cannot be changed.
    """
    for path in _way(folder, below):
        mode = _needed_mode(path)
        if mode is not None and path.is_dir() and not path.is_symlink():
            path.chmod(mode)


def _way(folder: Path, below: Path) -> list[Path]:
    parts = folder.relative_to(below).parts
    return [below.joinpath(*parts[:number]) for number in range(len(parts) + 1)]


def _needed_mode(folder: Path) -> int | None:
    """Return the mode that the folder should have; None if it has that or a similar mode."""
    try:
        status = folder.lstat()
    except OSError:
        return _PRIVATE
    mode = stat.S_IMODE(status.st_mode)
    is_good = stat.S_ISDIR(status.st_mode) and mode & _PRIVATE == _PRIVATE and not mode & _CHANGE
    return None if is_good else mode & ~_CHANGE | _PRIVATE


def make_files_private(files: Iterable[Path]) -> bool:
    """Make files private again that other users can read, but not change, as a cache leaves them.

    Args:
        files: the files; only those that are there and belong to the current user are changed. The
            first one must be there.

    Returns:
        Whether a file has changed.

    Raises:
        JournalError: other users can change the first file, it is a symbolic link, or it belongs
            to another user; or a mode cannot be changed. The message says what to do.
    """
    first, *others = files
    _check(first, others=_CHANGE)
    public = [file for file in (first, *others) if _is_public(file)]
    for file in public:
        try:
            file.chmod(0o600)
        except OSError as error:
            text = f"{file} cannot be made private: {error.strerror or error}"
            raise JournalError(text) from error
    return bool(public)


def _is_public(file: Path) -> bool:
    with contextlib.suppress(OSError):
        status = file.lstat()
        is_ours = hasattr(os, "geteuid") and status.st_uid == os.geteuid()
        return is_ours and stat.S_ISREG(status.st_mode) and bool(status.st_mode & _OTHERS)
    return False


def check_private(path: Path) -> None:
    """Check that a file or folder is private.

    Raises:
        JournalError: it is missing, is a symbolic link, belongs to another user, or is accessible
            to other users. The message says what to do.
    """
    _check(path, others=_OTHERS)


def check_ours(folder: Path) -> None:
    """Check that a folder belongs to the current user and is no symbolic link.

    Raises:
        FileNotFoundError: it is missing.
        JournalError: it cannot be checked, is something else, or belongs to another user. The
            message says what to do.
    """
    try:
        status = folder.lstat()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise JournalError(f"{folder} cannot be checked: {error.strerror or error}") from error
    _check(folder, others=0)
    if not stat.S_ISDIR(status.st_mode):
        raise JournalError(
            f"{folder} is not a directory; remove it, or set plan_dir to another path"
        )


def _check(path: Path, others: int) -> None:
    try:
        status = path.lstat()
    except OSError as error:
        raise JournalError(f"{path} cannot be checked: {error.strerror or error}") from error
    if stat.S_ISLNK(status.st_mode):
        raise JournalError(f"{path} is a symbolic link; remove it, or set plan_dir to another path")
    if not hasattr(os, "geteuid"):
        return
    if status.st_uid != os.geteuid():
        raise JournalError(
            f"{path} belongs to user {status.st_uid}, not to the current user ({os.geteuid()}); "
            "remove it, or set plan_dir to another path"
        )
    if status.st_mode & others:
        mode = f"{status.st_mode & 0o777:04o}"
        wanted = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise JournalError(
            f"{path} is accessible to other users (mode {mode}); run: chmod {wanted} {path}"
        )


def file_system_of(folder: Path) -> str:
    """Return the type of the file system of a folder, such as `ext4`; "" if it is not known."""
    if not _MOUNTS.exists():
        return ""
    real, best, kind = os.path.realpath(folder), "", ""
    for line in _MOUNTS.read_text(errors="surrogateescape").splitlines():
        _, point, name = line.split(" ", 3)[:3]
        if "\\" in point:
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
        if len(point) >= len(best) and os.path.commonpath([real, point]) == point:
            best, kind = point, name
    return kind


def is_remote(kind: str) -> bool:
    """Return whether a type of file system is that of a network, where locks are not safe."""
    return kind in _REMOTE


def _refuse_remote(folder: Path) -> None:
    kind = file_system_of(folder)
    if is_remote(kind):
        raise JournalError(
            f"{folder} is on a network file system ({kind}), where a journal is not safe; "
            "set plan_dir to a local directory"
        )
