"""Creates and checks private folders.

A private folder belongs to the current user and has mode 0700. Neither `plan_dir` nor any folder
below it may be a symbolic link or be on a network file system.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from pytest_plan.engine.model.errors import JournalError

_PRIVATE = 0o700
_CHANGE = 0o022  # write permission for group and others
_MOUNTS = Path("/proc/self/mounts")
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs", "ceph"})


def make_private(folder: Path, below: Path) -> None:
    """Create a private folder, and make every folder between it and `below` private.

    Args:
        folder: the folder; it may exist.
        below: a parent of the folder. It is created if it is missing. Other users may read it but
            not change it.

    Raises:
        JournalError: a folder cannot be created, is a symbolic link, belongs to another user, can
            be changed by other users, or is on a network file system. The message says what to do.
    """
    _make(below)
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


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    except FileExistsError as error:
        if not path.is_symlink():
            text = f"{path} is not a directory; remove it, or set plan_dir to another path"
            raise JournalError(text) from error
    except OSError as error:
        raise JournalError(f"{path} cannot be created: {error.strerror or error}") from error


def check_private(path: Path) -> None:
    """Check that a file or folder is private.

    Raises:
        JournalError: it is missing, is a symbolic link, belongs to another user, or is accessible
            to other users. The message says what to do.
    """
    _check(path, others=0o077)


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


def _refuse_remote(folder: Path) -> None:
    if not _MOUNTS.exists():
        return
    real, best, kind = os.path.realpath(folder), "", ""
    for line in _MOUNTS.read_text(errors="surrogateescape").splitlines():
        _, point, name = line.split(" ", 3)[:3]
        if "\\" in point:
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
        if len(point) >= len(best) and os.path.commonpath([real, point]) == point:
            best, kind = point, name
    if kind in _REMOTE:
        raise JournalError(
            f"{folder} is on a network file system ({kind}), where a journal is not safe; "
            "set plan_dir to a local directory"
        )
