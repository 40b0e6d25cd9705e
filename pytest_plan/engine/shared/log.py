"""The log of a step: a masked file that is created when its first line is written."""

from __future__ import annotations

import contextlib
import contextvars
import os
import shlex
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO

from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.model.secret import Masker
from pytest_plan.engine.processes.copies import getpid
from pytest_plan.engine.shared.folders import RunFolders
from pytest_plan.engine.shared.program_log import Copies, Gain, Log, MaskedCopy, gained, next_lines

TAIL_LINES = 30
_PATIENCE = 1.0  # seconds to wait for another thread, which may hang in a write

# The log of the step whose hook is running in the current thread (or asyncio task).
current_log: contextvars.ContextVar[StepLog | None] = contextvars.ContextVar(
    "pytest_plan_step_log", default=None
)


class StepLog(Log):
    """The log of one step: its `ctx.log` lines, and the output of its programs and hooks.

    All of it goes to a private file, of which `log.txt` in the artifacts folder of the step is a
    masked copy.

    Args:
        step: the step's name.
        folders: the folders of the run.
        masker: the masker for secrets.
        copies: the object that keeps the copies of the run up to date.

    Attributes:
        masker: the masker for secrets.
        step: the step's name.
        secrets: the secrets that hooks of the step have made known, as text.
        begin: how many bytes of the private file earlier runs have copied.
    """

    __slots__ = (
        "_apart",
        "_copies",
        "_copy",
        "_folders",
        "_hides",
        "_lock",
        "_process",
        "_source",
        "begin",
        "masker",
        "secrets",
        "step",
    )

    def __init__(self, step: str, folders: RunFolders, masker: Masker, copies: Copies) -> None:
        self.step = step
        self._folders = folders
        self.masker = masker
        self._copies = copies
        self._process = getpid()
        self._lock = threading.Lock()  # guards both files: their creation, appends, and copying
        self._source: Path | None = None
        self._copy: MaskedCopy | None = None
        self._hides: Callable[[], bool] | None = None
        self.secrets: set[str] = set()
        self.begin: int = 0
        # The parts of the private file that someone else shows: begin and end, in bytes.
        self._apart: deque[tuple[int, int]] | None = None

    def resume(self, source: Path, hides: Callable[[], bool]) -> None:
        """Continue the private file of an earlier run, to which programs of the step still write.

        What it has gained until now is not copied.

        Args:
            source: the private file.
            hides: a function that returns whether the file may contain a secret that this run does
                not know. As long as it does, nothing of the file is read or copied.

        Raises:
            OSError: the file cannot be found.
        """
        self.begin = os.stat(source).st_size
        self._source, self._hides = source, hides
        self._copies.add(self)
        self._copies.watch(self)

    @property
    def is_hidden(self) -> bool:
        """Whether programs of the step write to a file that this run may not show."""
        if self._hides is not None and not self._hides():
            self._hides = None
        return self._hides is not None

    @property
    def path(self) -> Path:
        """The path of the masked file. Reading this property creates the file if it is missing."""
        with self._lock:
            return self._files().target

    @property
    def existing(self) -> Path | None:
        """The path of the masked file; None if nothing was written."""
        return None if self._copy is None else self._copy.target

    def write(self, text: str, *, apart: bool = False) -> None:
        """Append `text` with secrets masked; discard it if the run is over.

        A line without its end is in the masked file once it has ended, or the run has.

        Args:
            text: the text.
            apart: whether someone else shows the text, so that `following` leaves it out.

        Raises:
            OSError: the log cannot be written.
        """
        with self._lock:
            try:
                self._append(text, apart=apart)
            except (OSError, PlanError):
                # An abandoned step may still print after the run, when its log has been removed.
                if not self._folders.is_over:
                    raise

    def write_command(self, argv: Sequence[str], end: str = "") -> None:
        """Append the line that shows a command, whose arguments are masked before they are quoted.

        Raises:
            OSError: the log cannot be written.
        """
        self.write(f"$ {shlex.join(map(self.masker.mask, argv))}{end}\n")

    def open_for_program(self) -> IO[bytes]:
        """Open the private file for the output of a program, and keep the copy up to date.

        Raises:
            PlanError, OSError: the run is over, or a file cannot be created.
        """
        with self._lock:
            self._files()
            assert self._source is not None
            file = self._source.open("ab")
        self._copies.watch(self)
        return file

    def written_since(self, position: int) -> bytes:
        """Return what the private file has from a position on, with secrets.

        Raises:
            OSError: the file cannot be read.
        """
        assert self._source is not None
        with self._source.open("rb") as file:
            file.seek(position)
            return file.read()

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last `lines` lines with secrets masked; "" if nothing was written."""
        with self._lock:
            try:
                if (copy := self._current()) is None:
                    return ""
                text = copy.tail()
            except (OSError, PlanError) as error:
                return f"(the log cannot be read: {error})"
        return "\n".join(text.replace("\r\n", "\n").splitlines()[-lines:])

    def glance(self) -> str:
        """Return the last line that is not blank, or "" while another thread writes to the log."""
        if self._copy is None and self._source is None:
            return ""
        if not self._lock.acquire(blocking=False):
            return ""
        try:
            copy = self._current()
            lines = "" if copy is None else copy.tail()
        except (OSError, PlanError):
            return ""
        finally:
            self._lock.release()
        return next((one for line in reversed(lines.splitlines()) if (one := line.strip())), "")

    @property
    def source(self) -> Path | None:
        """The private file; None until the first line is written, and while it is hidden."""
        return None if self.is_hidden else self._source

    @property
    def private_name(self) -> str | None:
        """The name of the private file in its folder, by which a later run finds it."""
        return None if self._source is None else self._source.name

    def mark(self) -> int:
        """Return the mark of the end of the log, for `gained`; 0 if nothing was written.

        Raises:
            OSError: the private file cannot be found, for example because the run is over.
        """
        if (source := self.source) is None:
            return 0
        size = os.stat(source).st_size
        if size < self.begin:  # it was truncated
            self.begin = 0
        return size

    def gained(self, mark: int) -> Gain:
        """Return the lines that the log has gained since `mark`, with secrets masked.

        At most the last 64 KB are returned.

        Raises:
            OSError: the private file cannot be read, for example because the run is over.
        """
        if (source := self.source) is None:
            return Gain(mark=mark)
        return gained(source, max(mark, self.begin), self.masker)

    def following(self, source: IO[bytes], mark: int, *, wholly: bool) -> Gain:
        """Return the next lines of the private file without the parts that someone else shows.

        Args:
            source: the private file.
            mark: where the lines begin; the mark of the last result.
            wholly: whether to return the last line if it has no end.

        Raises:
            OSError: the file cannot be read.
        """
        if not self._lock.acquire(timeout=_PATIENCE):
            return Gain(mark=mark)
        try:
            while self._apart and self._apart[0][0] <= mark:
                mark = max(mark, self._apart.popleft()[1])
            stop = self._apart[0][0] if self._apart else None
            wholly = wholly or stop is not None
            return next_lines(source, mark, self.masker, stop=stop, wholly=wholly)
        finally:
            self._lock.release()

    def update(self, *, wholly: bool = False) -> None:
        """Update the masked file, if there is one and no other thread uses it for long."""
        if self._source is not None and self._lock.acquire(timeout=_PATIENCE):
            try:
                with contextlib.suppress(OSError, PlanError):
                    if (copy := self._current()) is not None:
                        copy.update(wholly=wholly)
            finally:
                self._lock.release()

    def tick(self) -> None:
        """Update the masked file, if there is one; call this at regular times."""
        with self._lock, contextlib.suppress(OSError, PlanError):
            if (copy := self._current()) is not None:
                copy.tick()

    def _append(self, text: str, *, apart: bool) -> None:
        # What is known is masked before it is encoded, and before the disk has it.
        data = self.masker.mask(text).encode("utf-8", "backslashreplace")
        if getpid() != self._process:
            # A forked copy of the process cannot create the private file.
            path = self.source or self._folders.artifacts(self.step) / "log.txt"
            with path.open("ab") as file:
                file.write(data)
            return
        copy = self._files()
        assert self._source is not None
        with self._source.open("ab") as file:
            file.write(data)
            if apart:
                file.flush()
                self._set_apart(file.tell() - len(data), file.tell())
        if "\n" in text:
            copy.update()

    def _set_apart(self, begin: int, end: int) -> None:
        if self._apart is None:
            self._apart = deque()
        if self._apart and self._apart[-1][1] == begin:
            begin, _ = self._apart.pop()
        self._apart.append((begin, end))

    def _current(self) -> MaskedCopy | None:
        """Return the copy, which is created once a program has written to a resumed file."""
        if self._copy is None and self.mark() > self.begin:
            return self._files()
        return self._copy

    def _files(self) -> MaskedCopy:
        if self._copy is None:
            target = self._folders.artifacts(self.step) / "log.txt"
            target.touch(mode=0o600)
            if self.source is None:  # if that of an earlier run is hidden, this run has its own
                self._source = self._folders.private_file(f"{self.step}.txt")
                self.begin, self._hides = 0, None
            assert self._source is not None
            self._copy = MaskedCopy(self._source, target, self.masker, self.begin)
            self._copies.add(self)
        return self._copy


def note_secrets(texts: Iterable[str]) -> None:
    """Note that the hook of the current thread, if there is one, has made secrets known."""
    if (log := current_log.get()) is not None:
        log.secrets.update(texts)
