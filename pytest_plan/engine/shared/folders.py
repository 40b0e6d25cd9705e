"""The folders of a run: its scratch folder in the system's temporary folder, and artifacts.

Each folder of a run contains a marker. Only a folder with its own marker is ever removed.
"""

# Annotations are not postponed: a NamedTuple would compile each of them.
import contextlib
import functools
import json
import os
import stat
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pytest_plan.engine.definition.names import own_name
from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.processes.copies import getpid
from pytest_plan.engine.processes.identity import Owner, this_owner

MARKER = ".pytest-plan"
_PRIVATE = ".private"  # the folder of private files in a scratch folder
_PASSABLE = 0o711  # other users, such as the user of a server, may enter the folder but not list it
_LARGEST_MARKER = 4096  # bytes


class RunFolders:
    """Creates folders on demand, and removes the scratch folder at the end of the run.

    Args:
        artifacts: a function that returns the folder for artifacts, which outlive the run; each
            step gets a subfolder. None means that artifacts are kept in the scratch folder and
            removed with it.
        note: a function that is called with the path of the scratch folder before the folder is
            created.
        root: the scratch folder of the earlier run that this run continues; None means that a
            new one is created.
    """

    def __init__(
        self,
        artifacts: Callable[[], Path] | None = None,
        note: Callable[[Path], None] = lambda root: None,
        root: Path | None = None,
    ) -> None:
        self._artifacts_root = artifacts
        self._note = note
        self._process = getpid()
        self._lock = threading.Lock()  # guards _root and the creation of folders
        self._root = root
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether `remove` was called. From then on there is no scratch folder."""
        return self._is_over

    def scratch(self, step: str) -> Path:
        """Return the step's temporary folder; create it if it is missing.

        Raises:
            PlanError: the scratch folder has been removed, or a forked copy of the process would
                have to create it.
            OSError: the folder cannot be created.
        """
        with self._lock:
            return _create(self._scratch_root() / _short(step), _PASSABLE)

    def empty(self, step: str) -> None:
        """Remove the step's temporary folder and its contents, if there is one.

        Raises:
            OSError: something in it cannot be removed, or is not removed because it is a mount
                point.
        """
        with self._lock:
            root = self._root
        if root is not None and (left := remove_tree(root / _short(step))):
            raise OSError("the temporary folder of the step cannot be emptied: " + "; ".join(left))

    def artifacts(self, step: str) -> Path:
        """Return the step's folder for artifacts; create it if it is missing.

        Raises:
            PlanError: artifacts are kept in the scratch folder, which has been removed.
            OSError: the folder cannot be created.
        """
        with self._lock:
            if self._artifacts_root is None:
                own = _create(self._scratch_root() / ".artifacts", 0o700)
                return _create(own / below(step), 0o700)
            root = self._artifacts_root()
            if not root.is_dir():
                root.parent.mkdir(0o700, parents=True, exist_ok=True)
                _create_marked(root)
            return _create(root / below(step), 0o700)

    def private_file(self, name: str) -> Path:
        """Create a file in the scratch folder that only this user can read; return its path.

        The path is different each time, and a run that continues this one does not reuse it.

        Raises:
            PlanError: see `scratch`.
            OSError: the file cannot be created.
        """
        with self._lock:
            folder = _create(self._scratch_root() / _PRIVATE, stat.S_IRWXU)
            path = folder / f"{os.urandom(4).hex()}-{name.replace(os.sep, '-')}"
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
            os.close(os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR))
            return path

    def remove(self) -> str | None:
        """Remove the scratch folder; return a message about what is left, or None."""
        with self._lock:
            root, self._root, self._is_over = self._root, None, True
        left = [] if root is None else remove_tree(root)
        return f"{root} could not be removed: {'; '.join(left)}" if left else None

    def _scratch_root(self) -> Path:
        if self._is_over:
            raise PlanError("the run is over: its temporary folder has been removed")
        if self._root is None:
            if getpid() != self._process:
                raise PlanError(
                    "a forked copy of the process cannot create the temporary folder of the run, "
                    "which nothing would remove; ask for it before the fork"
                )
            # The name is short because a socket path may have at most 107 bytes. The path is noted
            # before the folder exists, because nothing would remove a folder that is not noted.
            import tempfile  # imported late because few runs need the folder

            root = Path(tempfile.gettempdir()) / f"plan-{os.urandom(6).hex()}"
            self._note(root)
            _create_marked(root)
            root.chmod(_PASSABLE)
            self._root = root
        return self._root


class Marker(NamedTuple):
    """The marker of a folder that pytest-plan has created.

    Attributes:
        inode: the inode of the folder; the marker of a copied folder is not valid.
        owner: the process that has created the folder.
        has_ended: whether the owner has recorded that it no longer uses the folder.
    """

    inode: int
    owner: Owner
    has_ended: bool = False

    @property
    def is_in_use(self) -> bool:
        """Whether the run of the folder may still use it."""
        return not self.has_ended and self.owner.may_live


def mark(folder: Path) -> None:
    """Write the marker of a folder that this process has created; raise OSError if that fails."""
    _write_marker(folder, Marker(folder.stat().st_ino, this_owner()))


def mark_ended(folder: Path) -> None:
    """Record in the marker of a folder, if it has one, that its run has ended.

    Raises:
        OSError: the marker cannot be written.
    """
    if (marker := marker_of(folder)) is not None:
        _write_marker(folder, marker._replace(has_ended=True))


def marker_of(folder: Path) -> Marker | None:
    """Return the marker of a folder; None if this user's pytest-plan has not created the folder."""
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or not _is_ours(status):
            return None
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(os.open(folder / MARKER, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or not _is_ours(found):
                return None
            values = json.loads(file.read(_LARGEST_MARKER))
        marker = Marker(values["inode"], Owner(**values["owner"]), bool(values["has_ended"]))
        return marker if marker.inode == status.st_ino else None
    return None


def private_file_in(root: Path, name: str) -> Path | None:
    """Return the private file with this name in a scratch folder; None if there is none of ours."""
    path = root / _PRIVATE / os.path.basename(name)
    with contextlib.suppress(OSError):
        status = path.lstat()
        if marker_of(root) is not None and stat.S_ISREG(status.st_mode) and _is_ours(status):
            return path
    return None


def _write_marker(folder: Path, marker: Marker) -> None:
    unfinished = folder / f"{MARKER}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with open(os.open(unfinished, flags, 0o600), "w", encoding="utf-8") as file:
            json.dump({**marker._asdict(), "owner": marker.owner._asdict()}, file)
        unfinished.replace(folder / MARKER)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def _is_ours(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def _create_marked(folder: Path) -> None:
    folder.mkdir(0o700)
    try:
        mark(folder)
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()  # without a marker, nothing would ever remove it
        raise


def _short(step: str) -> str:
    """Return a short name for the temporary folder of a step, whose name may contain folders."""
    if "/" not in step:
        return step
    # A nested folder could be part of that of another step, and make a socket path too long.
    return f"{own_name(step)}-{zlib.crc32(step.encode()):08x}"


def below(step: str) -> Path:
    """Return the relative path of the artifacts of a step; it never leads out of its parent."""
    if "/" not in step:
        return Path(step)
    return Path(*(part.replace("..", "%2E%2E") for part in step.split("/") if part))


def _create(folder: Path, mode: int) -> Path:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(mode)
    return folder


def remove_tree(folder: Path, below: Path | None = None) -> list[str]:
    """Remove a folder and its contents, including read-only files and folders.

    Symbolic links are removed, but never followed. Mount points are left, with their contents and
    the folders that contain them.

    Args:
        folder: a folder that pytest-plan has created; it may be missing.
        below: the innermost parent of the folder that may be reached through symbolic links; None
            means the direct parent.

    Returns:
        What is left, with the reason, for each item.
    """
    if os.open not in os.supports_dir_fd:  # on Windows
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
        return [f"{folder} cannot be removed"] if folder.exists() else []
    try:
        parent = _open_parent(folder, below or folder.parent)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{folder}: {error.strerror}"]
    try:
        removal = _Removal(_mount_of(parent))
        removal.remove_folder(folder.name, parent, str(folder))
    finally:
        os.close(parent)
    return removal.left


def _open_parent(folder: Path, below: Path) -> int:
    parent = os.open(below, os.O_RDONLY | os.O_DIRECTORY)
    for part in folder.parent.relative_to(below).parts:
        outer = parent
        try:
            parent = _open(part, outer)
        finally:
            os.close(outer)
    return parent


class _Removal:
    """Removes folders of one mounted file system, and notes what it leaves.

    Args:
        mount: the mount in which the folders must be.

    Attributes:
        left: what is left, with the reason.
    """

    def __init__(self, mount: tuple[int, int]) -> None:
        self._mount = mount
        self.left: list[str] = []

    def remove_folder(self, name: str, parent: int, path: str) -> None:
        """Remove the folder `name` of the open folder `parent`; `path` is its path in messages."""
        try:
            folder = _open(name, parent)
        except FileNotFoundError:
            return
        except OSError as error:
            self.left.append(f"{path}: {error.strerror}")
            return
        before = len(self.left)
        try:
            if _mount_of(folder) != self._mount:
                self.left.append(f"{path} is a mount point")
                return
            self._empty(folder, path)
        except (OSError, RecursionError) as error:
            self.left.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        finally:
            os.close(folder)
        if len(self.left) == before:
            self._note(path, lambda: os.rmdir(name, dir_fd=parent))

    def _empty(self, folder: int, path: str) -> None:
        if os.fstat(folder).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(OSError):
                os.fchmod(folder, stat.S_IRWXU)
        with os.scandir(folder) as found:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        for name, is_folder in entries:
            if is_folder:
                self.remove_folder(name, folder, f"{path}/{name}")
            else:
                self._note(f"{path}/{name}", functools.partial(os.unlink, name, dir_fd=folder))

    def _note(self, path: str, remove: Callable[[], None]) -> None:
        try:
            remove()
        except FileNotFoundError:
            pass
        except OSError as error:
            self.left.append(f"{path}: {error.strerror}")


def _open(name: str, parent: int) -> int:
    """Open a folder, but no symbolic link, in another one, even if its mode forbids that."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        if not hasattr(os, "O_PATH"):
            raise
    # Only this way of changing a mode does not follow a symbolic link.
    handle = os.open(name, flags | os.O_PATH, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)
    except FileNotFoundError as error:
        raise PermissionError(error.errno, "Permission denied, and /proc is missing") from error
    finally:
        os.close(handle)
    return os.open(name, flags, dir_fd=parent)


def _mount_of(folder: int) -> tuple[int, int]:
    """Return what identifies the mount of an open folder: its device, and on Linux the mount's id.

    A bind mount has the device of its source.
    """
    device = os.fstat(folder).st_dev
    try:
        with open(f"/proc/self/fdinfo/{folder}", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        return device, int(lines[b"mnt_id"])
    except (OSError, LookupError, ValueError):
        return device, _mount_id(folder)


def _mount_id(folder: int) -> int:
    """Return the id of the mount of an open folder if there is no /proc; -1 if it is unknown."""
    import ctypes

    at_empty_path, statx_mnt_id, offset = 0x1000, 0x1000, 144
    buffer = bytearray(256)
    result = (ctypes.c_char * 256).from_buffer(buffer)
    try:
        failed = ctypes.CDLL(None).statx(folder, b"", at_empty_path, statx_mnt_id, result)
    except (OSError, AttributeError):
        return -1
    return -1 if failed else int.from_bytes(buffer[offset : offset + 8], sys.byteorder)
