"""The log of a step: a file that is created when its first line is written."""

from __future__ import annotations

import contextvars
import threading
from pathlib import Path

from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.model.secret import Masker
from pytest_plan.engine.shared.folders import RunFolders

TAIL_LINES = 30
_TAIL_BYTES = 64 * 1024

# The log of the step whose hook is running in the current thread (or asyncio task).
current_log: contextvars.ContextVar[StepLog | None] = contextvars.ContextVar(
    "pytest_plan_step_log", default=None
)


class StepLog:
    """The log of one step: its `ctx.log` lines, and the output of its programs and hooks.

    Args:
        step: the step's name.
        folders: the folders of the run; the file is created in the artifacts folder of the step.
        masker: the masker for secrets.
    """

    __slots__ = ("_folders", "_lock", "_masker", "_path", "_step")

    def __init__(self, step: str, folders: RunFolders, masker: Masker) -> None:
        self._step = step
        self._folders = folders
        self._masker = masker
        self._lock = threading.Lock()  # guards the creation of the file and each append to it
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """The path of the file. Reading this property creates the file if it is missing."""
        with self._lock:
            return self._file()

    def write(self, text: str) -> None:
        """Append `text` with secrets masked; discard it if the run is over.

        Raises:
            OSError: the file cannot be written.
        """
        with self._lock:
            try:
                self._append(self._masker.mask(text))
            except (OSError, PlanError):
                # An abandoned step may still print after the run, when its log has been removed.
                if not self._folders.is_over:
                    raise

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last `lines` lines with secrets masked; "" if nothing was written."""
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
