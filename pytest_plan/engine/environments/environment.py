"""The folder of one environment, with its lock and its journal."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_plan.engine.environments.lock import file_lock
from pytest_plan.engine.environments.private import check_private, make_private
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import ForeignError, Recorded, read, refuse_foreign
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.journal.schema import place_of
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.identity import ourselves

FOLDER = "environments"
JOURNAL = "journal.sqlite"
LOCK = "lock"
_TRIES = 20  # maximum number of attempts to lock a folder that other processes remove
_OWNER_TIMEOUT = 1.0  # seconds that a process has to record itself as owner after locking
_POLL = 0.01  # seconds between two checks for a recorded owner


class BusyError(JournalError):
    """Another process owns the environment."""


class Environment:
    """An environment that this process owns until `release`.

    Args:
        parent: the `plan_dir`.
        name: the environment's name: letters, digits, `.`, `_` and `-`.
        key: the key that seals its journal; None means the key of this user.

    Attributes:
        name: the name of the environment.
        folder: the folder that contains its journal and its lock.
        key: the key that seals its journal.

    Raises:
        BusyError: another process owns it; the message says which.
        ForeignError: its journal was not written by this user.
        JournalError: its folder cannot be used; the message says what to do.
    """

    def __init__(self, parent: Path, name: str, key: Key | None = None) -> None:
        self.name = name
        self.key = key or Key.of(os.environ)
        self.folder = parent / FOLDER / name
        self._parent = parent
        self._lock = file_lock(self.folder / LOCK)
        self._refuse_foreign()
        self._claim()

    def _refuse_foreign(self) -> None:
        """Leave the folder of somebody else exactly as it is, unless somebody else uses it."""
        try:
            if os.path.lexists(self.file):
                refuse_foreign(self.file, self.key)
        except ForeignError:
            if self._lock.is_taken():
                raise BusyError(_busy(self.name, self.folder, self.key)) from None
            raise
        except JournalError:
            pass  # only the owner of the environment can judge its journal

    def _claim(self) -> None:
        """Create and lock the folder; try again if its previous owner removes it."""
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
            raise BusyError(_busy(self.name, self.folder, self.key))

    @property
    def file(self) -> Path:
        """The path of its journal."""
        return self.folder / JOURNAL

    def recorded(self) -> Recorded | None:
        """Return the content of its journal; None if it has no journal.

        Raises:
            ForeignError: the journal was not written by this user, or not where it is now.
            JournalError: the journal cannot be read.
        """
        if not os.path.lexists(self.file):
            return None
        recorded = self.read()
        check_private(self.file)
        recorded.check_place()
        return recorded

    def read(self) -> Recorded:
        """Return the content of the journal that this process has written.

        Raises:
            JournalError: the journal cannot be read.
        """
        return read(self.file, self.key)

    def open(
        self, references: References, fingerprint: Callable[[str], str], **facts: Any
    ) -> Journal:
        """Open the journal for writing, or create it, and record this process as the owner.

        Args:
            references: the references to functions and classes that the journal records.
            fingerprint: a function that takes the name of a step and returns its fingerprint.
            facts: additional facts about the run to record.

        Raises:
            JournalError: the journal cannot be created or written.
        """
        who = ourselves()
        journal = Journal(self.file, references, fingerprint, self.key)
        try:
            journal.set(
                name=self.name,
                status="open",
                place=place_of(self.file),
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
        """Give up the environment. A second call does nothing.

        Args:
            remove: whether to remove the folder because nothing is left to clean up. A folder
                without a journal is always removed.
        """
        if not self._lock.is_held:
            return
        remove = remove or not os.path.lexists(self.file)
        if remove:
            # Remove the folder before releasing the lock, so that the next owner sees the removal.
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
        if remove:
            for folder in (self.folder.parent, self.folder.parent.parent):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def names(parent: Path) -> list[str]:
    """Return the names of all environments that have a journal, oldest first."""
    ages = {}
    for folder in (parent / FOLDER).glob("*"):
        with contextlib.suppress(OSError):  # not `glob`, which finds no link to a missing file
            ages[folder.name] = (folder / JOURNAL).lstat().st_mtime
    return sorted(ages, key=ages.__getitem__)


def tidy(parent: Path) -> None:
    """Remove the folders of runs that were killed before they created a journal."""
    for folder in (parent / FOLDER).glob("run-*"):
        if os.path.lexists(folder / JOURNAL):
            continue
        with contextlib.suppress(JournalError), claimed(parent, folder.name):
            pass  # `release` removes a folder that has no journal


@contextlib.contextmanager
def claimed(parent: Path, name: str, key: Key | None = None) -> Iterator[Environment | None]:
    """Own an environment during the body of the `with` statement; yield None if it is in use.

    Raises:
        JournalError: its folder cannot be used; the message says what to do.
    """
    try:
        environment = Environment(parent, name, key)
    except BusyError:
        yield None
        return
    try:
        yield environment
    finally:
        environment.release()


def _busy(name: str, folder: Path, key: Key) -> str:
    until = time.monotonic() + _OWNER_TIMEOUT
    while not (owner := _owner(folder, key)) and time.monotonic() < until:
        time.sleep(_POLL)
    return (
        f"the environment {name!r} is in use{owner}; wait until it is free, "
        "or choose another one with --plan-environment NAME"
    )


def _owner(folder: Path, key: Key) -> str:
    with contextlib.suppress(JournalError):
        recorded = read(folder / JOURNAL, key)
        if recorded.owner is not None:  # None: the owner has not recorded itself yet
            age = format_duration(max(0.0, time.time() - recorded.facts["since"]))
            return f" by process {recorded.owner.pid} on {recorded.facts['host']} for {age}"
    return ""
