"""The folder of one environment: its lock, its journal, and who has it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_plan.engine.environments.lock import file_lock
from pytest_plan.engine.environments.private import check_private, make_private
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import Recorded, read
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.identity import ourselves

FOLDER = "environments"
JOURNAL = "journal.sqlite"
LOCK = "lock"
_TRIES = 20  # to lock a folder that others remove
_INTRODUCTION = 1.0  # seconds in which who has just begun writes down who it is
_LOOK = 0.01  # seconds between two looks


class BusyError(JournalError):
    """Another process has the environment."""


class Environment:
    """An environment that is ours until `release`.

    Args:
        parent: the `plan_dir`.
        name: names it in there; letters, digits, `.`, `_` and `-`.

    Attributes:
        name: its name.
        folder: where its journal is.

    Raises:
        BusyError: another process has it; the message names it.
        JournalError: its folder is unusable; the message says what to do.
    """

    def __init__(self, parent: Path, name: str) -> None:
        self.name = name
        self.folder = parent / FOLDER / name
        self._parent = parent
        self._lock = file_lock(self.folder / LOCK)
        self._claim()

    def _claim(self) -> None:
        """Make the folder and lock it, again when whoever had it removes it meanwhile."""
        for left in reversed(range(_TRIES)):
            try:
                self._lock_folder()
            except BusyError:
                raise
            except JournalError:
                if not left:
                    raise
            else:
                return

    def _lock_folder(self) -> None:
        make_private(self.folder, self._parent)
        try:
            is_ours = self._lock.acquire()
        except OSError as error:
            text = f"{self.folder} cannot be locked: {error.strerror or error}"
            raise JournalError(text) from error
        if not is_ours:
            raise BusyError(_busy(self.name, self.folder))

    @property
    def file(self) -> Path:
        """Its journal."""
        return self.folder / JOURNAL

    def recorded(self) -> Recorded | None:
        """Return what its journal tells; None when it has none.

        Raises:
            JournalError: the journal cannot be read.
        """
        if not self.file.exists():
            return None
        check_private(self.file)
        return read(self.file)

    def open(
        self, references: References, fingerprint: Callable[[str], str], **facts: Any
    ) -> Journal:
        """Return its journal, to write in; note `facts`, and that we have the environment now.

        Raises:
            JournalError: the journal cannot be made, or not be written in.
        """
        who = ourselves()
        journal = Journal(self.file, references, fingerprint)
        try:
            journal.set(
                name=self.name,
                status="open",
                owner={"pid": who.pid, "birth": who.birth, "boot": who.boot},
                host=socket.gethostname(),
                since=time.time(),
                **facts,
            )
        except JournalError:
            journal.close()
            raise
        return journal

    def release(self, *, remove: bool = False) -> None:
        """Let go of it; `remove` it when nothing is left of it. A second call does nothing.

        Without a journal nothing is: none was made, or whoever had it before us removed it.
        """
        if not self._lock.is_held:
            return
        remove = remove or not self.file.exists()
        if remove:
            # While it is locked: who waits for the lock sees that it is not this folder any more.
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
        if remove:
            for folder in (self.folder.parent, self.folder.parent.parent):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def names(parent: Path) -> list[str]:
    """Return the environments that have a journal, the oldest first."""
    files = list((parent / FOLDER).glob(f"*/{JOURNAL}"))
    return [file.parent.name for file in sorted(files, key=lambda file: file.stat().st_mtime)]


def tidy(parent: Path) -> None:
    """Remove what is there of runs that died before they had a journal: nothing of theirs is."""
    for folder in (parent / FOLDER).glob("run-*"):
        if (folder / JOURNAL).exists():
            continue
        with contextlib.suppress(JournalError), claimed(parent, folder.name):
            pass  # without a journal there is nothing of it


@contextlib.contextmanager
def claimed(parent: Path, name: str) -> Iterator[Environment | None]:
    """Give an environment whose owner is dead, None while somebody has it.

    Raises:
        JournalError: its folder is unusable; the message says what to do.
    """
    try:
        environment = Environment(parent, name)
    except BusyError:
        yield None
        return
    try:
        yield environment
    finally:
        environment.release()


def _busy(name: str, folder: Path) -> str:
    text = f"the environment {name!r} is in use"
    until = time.monotonic() + _INTRODUCTION
    while not (owner := _owner(folder)) and time.monotonic() < until:
        time.sleep(_LOOK)
    return f"{text}{owner}: wait for it, or take another name (--plan-environment NAME)"


def _owner(folder: Path) -> str:
    with contextlib.suppress(JournalError):
        recorded = read(folder / JOURNAL)
        if recorded.owner is not None:  # else it has only just begun
            age = format_duration(max(0.0, time.time() - recorded.facts["since"]))
            return f" by process {recorded.owner.pid} on {recorded.facts['host']}, for {age}"
    return ""
