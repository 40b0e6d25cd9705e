"""The folders of a run: scratch below the system's temporary folder, and artifacts."""

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

_PASSABLE = 0o711  # another user may pass through (a server that refuses root), but not list


class RunFolders:
    """Makes folders when they are asked for and removes the scratch ones at the end.

    Args:
        artifacts: returns the folder that holds what is kept after the run, one folder per
            step in it; None keeps artifacts in the scratch folder, which goes with the run.
        note: told the scratch folder before it is made.
        root: the scratch folder of the run that this one continues; None: a new one.
    """

    def __init__(
        self,
        artifacts: Callable[[], Path] | None = None,
        note: Callable[[Path], None] = lambda root: None,
        root: Path | None = None,
    ) -> None:
        self._artifacts_root = artifacts
        self._note = note
        self._lock = threading.Lock()  # guards _root and all making of folders
        self._root = root
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the scratch folder has been removed for good."""
        return self._is_over

    def scratch(self, step: str) -> Path:
        """Return the step's own temporary folder, made when missing."""
        with self._lock:
            return _made(self._scratch_root() / step, _PASSABLE)

    def empty(self, step: str) -> None:
        """Remove what is in the step's temporary folder, if there is one."""
        with self._lock:
            root = self._root
        if root is not None:
            _remove(root / step)

    def artifacts(self, step: str) -> Path:
        """Return the step's folder for what should outlive the run, made when missing."""
        with self._lock:
            root = self._artifacts_root() if self._artifacts_root else self._own_artifacts()
            return _made(root / step, 0o700)

    def remove(self) -> str | None:
        """Remove the scratch folder; return what could not be removed and why, None when gone."""
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
            # The name is short: a socket's path ends at 107 bytes. It is noted first: a folder
            # that nobody knows of would stay for ever.
            root = Path(tempfile.gettempdir()) / f"plan-{secrets.token_hex(6)}"
            self._note(root)
            root.mkdir(0o700)
            root.chmod(_PASSABLE)
            self._root = root
        return self._root

    def _own_artifacts(self) -> Path:
        return _made(self._scratch_root() / ".artifacts", 0o700)


def _made(folder: Path, mode: int) -> Path:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(mode)
    return folder


def _remove(folder: Path) -> None:
    """Remove a folder of ours, also what its owner may not write in."""

    def open_and_retry(_: object, path: str, __: object) -> None:
        # Only below the folder: what it lies in is not ours to open.
        for part in (Path(path).parent, Path(path)):
            if part.is_relative_to(folder) and not part.is_symlink():
                with contextlib.suppress(OSError):
                    part.chmod(stat.S_IRWXU)
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    if folder.exists():
        shutil.rmtree(folder, onerror=open_and_retry)
