"""Folders that nobody else may read or change: private, ours, and no way around by a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pytest_plan.engine.errors import JournalError

_PRIVATE = 0o700
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs", "ceph"})


def make_private(folder: Path, below: Path) -> None:
    """Make a folder, and those between it and `below`, for us alone.

    Args:
        folder: what is made; it may be there already.
        below: the folder that belongs to the user; what lies under it is ours.

    Raises:
        JournalError: one of them is a link, somebody else's, open to others, or lies on a
            network file system; the message says what to do.
    """
    parts = folder.relative_to(below).parts
    path = below
    for part in parts:
        path = path / part
        try:
            path.mkdir(mode=_PRIVATE, parents=path.parent == below, exist_ok=True)
        except OSError as error:
            raise JournalError(f"{path} cannot be made: {error.strerror or error}") from error
        check_private(path)
    _refuse_remote(folder)


def check_private(path: Path) -> None:
    """Raise JournalError unless a file or folder is ours, no link, and closed to others."""
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
    if status.st_mode & 0o077:
        raise JournalError(
            f"{path} is open to other users (mode {status.st_mode & 0o777:04o}): "
            f"chmod {'700' if stat.S_ISDIR(status.st_mode) else '600'} it"
        )


def _refuse_remote(folder: Path) -> None:
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return
    real, best, kind = os.path.realpath(folder), "", ""
    for line in mounts.read_text(errors="replace").splitlines():
        _, point, name = line.split(" ", 3)[:3]
        point = point.replace("\\040", " ")
        if len(point) >= len(best) and os.path.commonpath([real, point]) == point:
            best, kind = point, name
    if kind in _REMOTE:
        raise JournalError(
            f"{folder} lies on a network file system ({kind}), where a journal is not safe: "
            "set plan_dir to a local folder"
        )
