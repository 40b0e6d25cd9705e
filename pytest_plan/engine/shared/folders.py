"""The folders of a run: its scratch folder in the system's temporary folder, and artifacts."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from pytest_plan.engine.model.errors import PlanError

_PASSABLE = 0o711  # other users, such as the user of a server, may enter the folder but not list it


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
        self._process = os.getpid()
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
            return _create(self._scratch_root() / step, _PASSABLE)

    def empty(self, step: str) -> None:
        """Remove the step's temporary folder and its contents, if there is one."""
        with self._lock:
            root = self._root
        if root is not None:
            _remove(root / step)

    def artifacts(self, step: str) -> Path:
        """Return the step's folder for artifacts; create it if it is missing.

        Raises:
            PlanError: artifacts are kept in the scratch folder, which has been removed.
            OSError: the folder cannot be created.
        """
        with self._lock:
            root = self._artifacts_root() if self._artifacts_root else self._own_artifacts()
            return _create(root / step, 0o700)

    def remove(self) -> str | None:
        """Remove the scratch folder; return a message if that failed, else None."""
        with self._lock:
            root, self._root, self._is_over = self._root, None, True
        if root is None:
            return None
        _remove(root)
        return f"{root} could not be removed" if root.exists() else None

    def _scratch_root(self) -> Path:
        if self._is_over:
            raise PlanError("the run is over: its temporary folder has been removed")
        if self._root is None:
            if os.getpid() != self._process:
                raise PlanError(
                    "a forked copy of the process cannot create the temporary folder of the run, "
                    "which nothing would remove; ask for it before the fork"
                )
            # The name is short because a socket path may have at most 107 bytes. The path is noted
            # before the folder exists, because nothing would remove a folder that is not noted.
            root = Path(tempfile.gettempdir()) / f"plan-{secrets.token_hex(6)}"
            self._note(root)
            root.mkdir(0o700)
            root.chmod(_PASSABLE)
            self._root = root
        return self._root

    def _own_artifacts(self) -> Path:
        return _create(self._scratch_root() / ".artifacts", 0o700)


def _create(folder: Path, mode: int) -> Path:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(mode)
    return folder


def _remove(folder: Path) -> None:
    """Remove one of our folders, including read-only files and folders in it."""

    def open_and_retry(_: object, path: str, __: object) -> None:
        # Change modes only inside the folder, because its parents are not ours.
        for part in (Path(path).parent, Path(path)):
            if part.is_relative_to(folder) and not part.is_symlink():
                with contextlib.suppress(OSError):
                    part.chmod(stat.S_IRWXU)
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    if folder.exists():
        shutil.rmtree(folder, onerror=open_and_retry)
