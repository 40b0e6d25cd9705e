"""What a step wrote: one file per step, made when there is a first line."""

from __future__ import annotations

import contextvars
import threading
from pathlib import Path

from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.model.secret import Masker
from pytest_plan.engine.shared.folders import RunFolders

TAIL_LINES = 30
_TAIL_BYTES = 64 * 1024

# The log of the step whose hook the current thread (or asyncio task) runs.
current_log: contextvars.ContextVar[StepLog | None] = contextvars.ContextVar(
    "pytest_plan_step_log", default=None
)


class StepLog:
    """The log of one step: `ctx.log`, the output of its processes, what its hooks print.

    Args:
        step: the step's name.
        folders: asked for the folder of the file at the first line.
        masker: hides secrets.
    """

    __slots__ = ("_folders", "_lock", "_masker", "_path", "_step")

    def __init__(self, step: str, folders: RunFolders, masker: Masker) -> None:
        self._step = step
        self._folders = folders
        self._masker = masker
        self._lock = threading.Lock()  # guards the making of the file and each append to it
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """The file; made if it was not there."""
        with self._lock:
            return self._file()

    def write(self, text: str) -> None:
        """Append `text` as it is, secrets masked; after the run drop it."""
        with self._lock:
            try:
                self._append(self._masker.mask(text))
            except (OSError, PlanError):
                # A step that was left behind may still print; its log has gone with the run.
                if not self._folders.is_over:
                    raise

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last `lines` lines, secrets masked; empty when nothing was written."""
        with self._lock:
            path = self._path
        if path is None:
            return ""
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _TAIL_BYTES))
                content = file.read()
        except OSError as error:
            return f"(the log cannot be read: {error})"
        text = content.decode("utf-8", "replace").replace("\r\n", "\n")
        return self._masker.mask("\n".join(text.splitlines()[-lines:]))

    def _append(self, text: str) -> None:
        with self._file().open("ab") as file:
            file.write(text.encode("utf-8", "backslashreplace"))

    def _file(self) -> Path:
        if self._path is None:
            path = self._folders.artifacts(self._step) / "log.txt"
            path.touch(mode=0o600)
            self._path = path
        return self._path
