"""Folders that nobody else may read or change: private, ours, and no way around by a link."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from pytest_plan.engine.model.errors import JournalError

_PRIVATE = 0o700
_CHANGE = 0o022  # what lets others put other things in
_MOUNTS = Path("/proc/self/mounts")
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs", "ceph"})


def make_private(folder: Path, below: Path) -> None:
    """Make a folder, and those between it and `below`, for us alone.

    Args:
        folder: what is made; it may be there already.
        below: where it lies, made when missing; others may read it, not change it.

    Raises:
        JournalError: one of them is a link, somebody else's, may be changed by others, or lies
            on a network file system; the message says what to do.
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
            raise JournalError(f"{path} cannot be closed: {error.strerror or error}") from error
    _refuse_remote(folder)


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    except FileExistsError as error:
        if not path.is_symlink():
            raise JournalError(f"{path} is no folder: set plan_dir elsewhere") from error
    except OSError as error:
        raise JournalError(f"{path} cannot be made: {error.strerror or error}") from error


def check_private(path: Path) -> None:
    """Raise JournalError unless a file or folder is ours, no link, and closed to others."""
    _check(path, others=0o077)


def _check(path: Path, others: int) -> None:
    try:
        status = path.lstat()
    except OSError as error:
        raise JournalError(f"{path} cannot be looked at: {error.strerror or error}") from error
    if stat.S_ISLNK(status.st_mode):
        raise JournalError(f"{path} is a symbolic link: remove it, or set plan_dir elsewhere")
    if not hasattr(os, "geteuid"):
        return
    if status.st_uid != os.geteuid():
        raise JournalError(
            f"{path} belongs to user {status.st_uid}, not to us ({os.geteuid()}): "
            "remove it, or set plan_dir elsewhere"
        )
    if status.st_mode & others:
        mode = f"{status.st_mode & 0o777:04o}"
        wanted = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise JournalError(f"{path} is open to other users (mode {mode}): chmod {wanted} it")


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
            f"{folder} lies on a network file system ({kind}), where a journal is not safe: "
            "set plan_dir to a local folder"
        )
