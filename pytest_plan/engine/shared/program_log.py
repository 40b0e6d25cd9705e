"""The masked copy of a private file, to which a program writes its output.

A program writes to its file without us, so that it can outlive this process. Nobody else may read
that file, because the program may write secrets to it. What people read is the copy.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import IO, NamedTuple

from pytest_plan.engine.model.clock import Flag
from pytest_plan.engine.model.secret import MASK, Masker

_EVERY = 0.2  # seconds between two updates of the copies
_PATIENCE = 5  # how many updates a line without its end waits
_SHORT = 1.0  # how many seconds the last update may take, which nobody needs
_CHUNK = 1024 * 1024
_TAIL_BYTES = 64 * 1024
_LONG_LINE = 4096  # of a longer line, only what is new is shown


class Gain(NamedTuple):
    """What a log has gained.

    Attributes:
        text: the lines, with secrets masked.
        mark: the mark of their end.
        is_cut: whether lines are missing at the beginning, because there are too many.
    """

    text: str = ""
    mark: int = 0
    is_cut: bool = False


def gained(source: Path, mark: int, masker: Masker) -> Gain:
    """Return the masked lines that a private file has gained since it had `mark` bytes.

    If the first of them began before, it is whole, unless it is very long. Only the last 64 KB are
    read.

    Raises:
        OSError: the file cannot be read.
    """
    with source.open("rb") as file:
        size = file.seek(0, 2)
        mark = _mark_in(mark, size)
        if size == mark:
            return Gain(mark=mark)
        first = max(mark, size - _TAIL_BYTES)
        # What is before the first line may be the beginning of a secret.
        begin = max(0, first - _LONG_LINE - _reach(masker))
        file.seek(begin)
        data = file.read(size - begin)
    at = first - begin
    if first > mark:
        at = data.find(b"\n", at, -1) + 1 or at
    else:
        earliest = max(0, at - _LONG_LINE)
        at = data.rfind(b"\n", earliest, at) + 1 or (at if first > _LONG_LINE else 0)
    return Gain(_masked_from(data, at, masker), begin + len(data), first > mark)


def next_lines(
    source: IO[bytes], mark: int, masker: Masker, *, stop: int | None = None, wholly: bool = False
) -> Gain:
    """Return the masked lines that begin at `mark`, as many as are read at once.

    A line that is longer than that is returned in parts.

    Args:
        source: the private file.
        mark: where the lines begin; the mark of the last result.
        masker: the masker for secrets.
        stop: where the lines end at the latest; None means at the end of the file.
        wholly: whether to return the last line if it has no end.

    Raises:
        OSError: the file cannot be read.
    """
    mark = _mark_in(mark, source.seek(0, 2))
    begin = max(0, mark - _reach(masker))
    source.seek(begin)
    most = _CHUNK if stop is None else min(_CHUNK, max(0, stop - mark))
    data = source.read(mark - begin + most)
    at = mark - begin
    is_all = len(data) - at < _CHUNK
    if wholly and is_all:
        return Gain(_masked_from(data, at, masker), begin + len(data))
    end = data.rfind(b"\n", at) + 1
    if not end and is_all:
        return Gain(mark=mark)
    text = _text(data[: end or len(data)])
    _, first = masker.mask_some(text, len(_text(data[:at])))
    rest = text[first:]
    masked, last = masker.mask_some(rest, len(rest) - (0 if end else _reach(masker)))
    return Gain(_shown(masked), begin + len(_bytes(text[: first + last])))


def _mark_in(mark: int, size: int) -> int:
    """Return the mark in a file of this size; a file that was truncated begins again."""
    return mark if mark <= size else 0


def _reach(masker: Masker) -> int:
    """Return how many bytes the longest form of a secret may have."""
    return 4 * max(map(len, masker.forms), default=0)


def _masked_from(data: bytes, at: int, masker: Masker) -> str:
    """Mask `data` from byte `at` on, with the secrets that begin before it.

    What may be the beginning of a secret at the end is masked as well.
    """
    text = _text(data)
    _, first = masker.mask_some(text, len(_text(data[:at])))
    last = masker.begun(text)
    masked, _ = masker.mask_some(text[first:], max(0, last - first))
    return _shown(masked + (MASK if last < len(text) else ""))


def _shown(text: str) -> str:
    return _bytes(text).decode("utf-8", "replace")


class MaskedCopy:
    """The masked copy of a private file. Its owner sees to it that one thread at a time uses it.

    Args:
        source: the private file, to which anybody who has it open may append.
        target: the copy, which must exist.
        masker: the masker for secrets.
        begin: how many bytes of the source are not copied, because an earlier run has.
    """

    def __init__(self, source: Path, target: Path, masker: Masker, begin: int = 0) -> None:
        self.target = target
        self._source = source
        self._masker = masker
        self._begin = begin
        self._copied = begin  # the bytes of the source that have been copied or left out
        self._forms = 0  # the number of forms that were masked in them
        self._waited = 0  # the number of updates since a line without its end was first seen

    def update(self, *, wholly: bool = False) -> None:
        """Copy the lines that the source has gained; with `wholly`, also a line without its end.

        If a secret that is known only now was copied before, the copy is made anew.

        Raises:
            OSError: the source cannot be read, or the copy cannot be written.
        """
        if self._shows_new_secret():
            self.target.write_bytes(b"")
            self._copied = self._begin
        with self._source.open("rb") as source:
            if source.seek(0, 2) < self._copied:  # it was truncated
                self._copied = self._begin = 0
            source.seek(self._copied)
            while chunk := source.read(_CHUNK):
                size = self._append(chunk, wholly=wholly and len(chunk) < _CHUNK)
                if size == 0:
                    break
                source.seek(self._copied)

    def tick(self) -> None:
        """Update the copy; call this at regular times. A line without its end waits for a while.

        Then all of it is copied but the beginning of what may become a secret.

        Raises:
            OSError: see `update`.
        """
        self.update()
        self._waited = self._waited + 1 if self._rest() else 0
        if self._waited >= _PATIENCE:
            self._waited = 0
            self._append_some(self._rest())

    def tail(self) -> str:
        """Return the masked end of the source, as far as it is known.

        Raises:
            OSError: see `update`.
        """
        self.update()
        with self.target.open("rb") as target:
            size = target.seek(0, 2)
            target.seek(max(0, size - _TAIL_BYTES))
            copied = target.read().decode("utf-8", "surrogateescape")
        rest, _ = self._with_begun(self._rest())
        begun = self._masker.begun(rest)
        end = MASK if begun < len(rest) else ""
        text = self._masker.mask(copied + rest[:begun]) + end
        return _bytes(text)[-_TAIL_BYTES:].decode("utf-8", "replace")

    def _shows_new_secret(self) -> bool:
        forms = self._masker.forms
        new, self._forms = forms[self._forms :], len(forms)
        if not new or self._copied == self._begin:
            return False
        with self._source.open("rb") as source:
            source.seek(max(0, self._begin - _reach(self._masker)))
            text = _text(source.read(self._copied - source.tell()))
        return any(form in text for form in new)

    def _rest(self) -> bytes:
        with self._source.open("rb") as source:
            source.seek(self._copied)
            return source.read(_CHUNK)

    def _append(self, chunk: bytes, *, wholly: bool) -> int:
        """Copy the whole lines of a chunk, or all of it; return how many bytes were copied."""
        size = len(chunk) if wholly else chunk.rfind(b"\n") + 1
        if size:
            text, _ = self._with_begun(chunk[:size])
            self._write(self._masker.mask(text), size)
        elif len(chunk) == _CHUNK:  # a line that is too long to wait for its end
            size = self._append_some(chunk)
        return size

    def _append_some(self, chunk: bytes) -> int:
        longest = max(map(len, self._masker.forms), default=0)
        text, earlier = self._with_begun(chunk)
        masked, end = self._masker.mask_some(text, max(0, len(text) - longest))
        size = len(_bytes(text[:end])) - earlier
        if size > 0:
            self._write(masked, size)
        return max(0, size)

    def _with_begun(self, chunk: bytes) -> tuple[str, int]:
        """Return a chunk as text, after what is left out of a secret with whose end it begins.

        The second result is how many bytes before the chunk that is.
        """
        if not self._begin or self._copied > self._begin:
            return _text(chunk), 0
        with self._source.open("rb") as source:
            source.seek(max(0, self._begin - _reach(self._masker)))
            before = source.read(self._begin - source.tell())
        text = _text(before + chunk)
        _, first = self._masker.mask_some(text, len(_text(before)))
        return text[first:], len(before) - len(_bytes(text[:first]))

    def _write(self, masked: str, size: int) -> None:
        with self.target.open("ab") as target:
            target.write(_bytes(masked))
        self._copied += size


class Copies:
    """Keeps the logs of a run up to date, on a thread of its own that starts with the first one."""

    def __init__(self) -> None:
        self._logs: tuple[Log, ...] = ()
        self._watched: tuple[Log, ...] = ()
        self._lock = threading.Lock()  # guards the three other attributes
        self._thread: threading.Thread | None = None
        self._is_closed = Flag()

    def add(self, log: Log) -> None:
        """Finish a log when the run is over."""
        with self._lock:
            if log not in self._logs:
                self._logs = (*self._logs, log)

    def watch(self, log: Log) -> None:
        """Keep a log up to date, because a program writes to it."""
        with self._lock:
            if log not in self._watched:
                self._watched = (*self._watched, log)
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="plan-logs", daemon=True)
            # Without a thread, a log is up to date only when it is read and at the end.
            with contextlib.suppress(RuntimeError):
                self._thread.start()

    def close(self) -> None:
        """Finish all logs. What programs write from now on stays in their private files."""
        self._is_closed.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(_SHORT)
        for log in self._logs:
            log.update(wholly=True)

    def _run(self) -> None:
        while not self._is_closed.wait(_EVERY):
            for log in self._watched:
                with contextlib.suppress(Exception):  # if a test has replaced a function of `os`
                    log.tick()


class Log:
    """What `Copies` keeps up to date. Its methods raise no OSError."""

    __slots__ = ()

    def update(self, *, wholly: bool = False) -> None:
        """Update the masked copy; see `MaskedCopy.update`."""

    def tick(self) -> None:
        """Update the masked copy; see `MaskedCopy.tick`."""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
