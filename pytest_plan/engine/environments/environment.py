"""The folder of one environment, with its lock and its journal."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_plan.engine.environments.lock import file_lock
from pytest_plan.engine.environments.private import (
    TAGS,
    check_ours,
    check_private,
    make_private,
    remove_tagged,
)
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import ForeignError, Recorded, read, refuse_foreign
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.journal.schema import place_of
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.identity import Owner, host, namespace, this_owner

FOLDER = "environments"
JOURNAL = "journal.sqlite"
LOCK = "lock"
LOG = "reaper.log"
RELEASED = "released"  # contains the owner that has released the environment and left its journal
_FILES = (JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm", f"{JOURNAL}.new", LOG, RELEASED, LOCK)
RUN, RECOVERY = "run", "recovery"  # what the owner of an environment does with it
_TRIES = 20  # maximum number of attempts to lock a folder that other processes remove
_OWNER_TIMEOUT = 1.0  # seconds that a process has to record itself as owner after locking
_POLL = 0.01  # seconds between two checks for a recorded owner


class BusyError(JournalError):
    """Another process owns the environment."""


class ElsewhereError(JournalError):
    """The owner of the environment is on another host or in another container, and may live."""


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
        BusyError: another process owns it; the message says which. Its lock may be free, because
            it was removed or because the folder is a copy.
        ElsewhereError: its owner cannot be seen from here; the message names the folder.
        ForeignError: its journal was not written by this user.
        JournalError: its folder cannot be used; the message says what to do.
    """

    def __init__(self, parent: Path, name: str, key: Key | None = None) -> None:
        self.name = name
        self.key = key or Key.of(os.environ)
        self.folder = parent / FOLDER / name
        self._parent = parent
        self._lock = file_lock(self.folder / LOCK)
        self._is_opened = False
        self._refuse_foreign()
        self._claim()
        try:
            self._refuse_living_owner()
        except JournalError:
            self._lock.release()
            raise

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

    def _refuse_living_owner(self) -> None:
        """Raise an error if the owner in the journal may live, although the lock is free."""
        if not os.path.lexists(self.file):
            return
        try:
            recorded = self.read()
        except JournalError:
            return  # without a readable journal nothing is cleaned up
        owner = _owner_of(recorded)
        if owner is None or _released_by(self.folder) == owner:
            return
        if owner.is_elsewhere:
            if not recorded.is_kept:
                raise ElsewhereError(_elsewhere(self.name, self.folder, owner))
        elif owner.may_live:
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
        (self.folder / RELEASED).unlink(missing_ok=True)
        if not self.file.exists():
            for name in (f"{JOURNAL}-wal", f"{JOURNAL}-shm"):  # of a journal that was removed
                (self.folder / name).unlink(missing_ok=True)
        pid, birth, boot, *_ = this_owner()
        journal = Journal(self.file, references, fingerprint, self.key)
        self._is_opened = True
        try:
            journal.set(
                name=self.name,
                status="open",
                place=place_of(self.file),
                owner={"pid": pid, "birth": birth, "boot": boot},
                host=host(),
                namespace=namespace(),
                since=time.time(),
                **{"activity": RUN, **facts},
            )
        except JournalError:
            journal.close()
            raise
        return journal

    def release(self, *, remove: bool = False) -> None:
        """Give up the environment. A second call does nothing.

        Args:
            remove: whether to remove the journal because nothing is left to clean up. The folder
                is removed, too, if nothing else is in it. A folder without a journal is always
                removed.
        """
        if not self._lock.is_held:
            return
        remove = remove or not os.path.lexists(self.file)
        if remove:
            # Remove the folder before releasing the lock, so that the next owner sees the removal.
            _remove_files(self.folder)
        elif self._is_opened:
            with contextlib.suppress(OSError):
                _write_released(self.folder)
        self._lock.release()
        if remove:
            with contextlib.suppress(OSError):
                self.folder.parent.rmdir()
            remove_tagged(self._parent)


def _remove_files(folder: Path) -> None:
    """Remove the files that we have created in the folder, and the folder if that was all."""
    for name in _FILES:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _write_released(folder: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with open(os.open(folder / RELEASED, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(this_owner()._asdict(), file)


def _released_by(folder: Path) -> Owner | None:
    with contextlib.suppress(OSError, ValueError, TypeError, JournalError):
        check_private(folder / RELEASED)
        return Owner(**json.loads((folder / RELEASED).read_bytes()))
    return None


def _owner_of(recorded: Recorded) -> Owner | None:
    owner, facts = recorded.owner, recorded.facts
    if owner is None:
        return None
    return Owner(*owner, facts.get("host", host()), facts.get("namespace", namespace()))


def names(parent: Path) -> list[str]:
    """Return the names of all environments that have a journal, oldest first.

    Raises:
        JournalError: the folder cannot be used; the message says what to do.
    """
    try:
        check_ours(parent)
        check_ours(parent / FOLDER)
    except FileNotFoundError:
        return []
    found = []
    for folder in _folders(parent):
        with contextlib.suppress(OSError):
            found.append(((folder / JOURNAL).lstat().st_mtime, folder.name))
    return [name for _, name in sorted(found)]


def _folders(parent: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted((parent / FOLDER).iterdir())
    return []


def tidy(parent: Path) -> None:
    """Remove the folders of runs that were killed before they created a journal.

    Raises:
        JournalError: the folder `parent` cannot be used; the message says what to do.
    """
    without = {folder.name for folder in _folders(parent)} - set(names(parent))
    for name in sorted(without):
        try:
            content = set(os.listdir(parent / FOLDER / name))
        except OSError:
            continue
        if name.startswith("run-") and content <= set(_FILES):
            with contextlib.suppress(JournalError), claimed(parent, name):
                pass  # `release` removes a folder that has no journal


def remove_empty(parent: Path, name: str) -> None:
    """Remove the folders of an environment that could not be claimed; this opens no file.

    Args:
        parent: a `plan_dir` that was created for this environment alone.
        name: the name of the environment.
    """
    folder = parent / FOLDER / name
    with contextlib.suppress(OSError):
        for file in (folder / LOCK, *(parent / name for name in TAGS)):
            file.unlink(missing_ok=True)
        for path in (folder, folder.parent, parent):
            path.rmdir()


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


def is_being_cleaned(parent: Path, name: str, key: Key) -> bool:
    """Return whether an environment that is in use is being cleaned up after its run."""
    try:
        recorded = read(parent / FOLDER / name / JOURNAL, key)
    except JournalError:
        return False
    owner = _owner_of(recorded)
    # A process that has the lock of a dead owner has not recorded itself yet.
    return owner is None or not owner.may_live or recorded.facts.get("activity") == RECOVERY


def _busy(name: str, folder: Path, key: Key) -> str:
    until = time.monotonic() + _OWNER_TIMEOUT
    while not (owner := _owner(folder, key)) and time.monotonic() < until:
        time.sleep(_POLL)
    return (
        f"the environment {name!r} is in use{owner}; wait until it is free, "
        "or choose another one with --plan-environment NAME"
    )


def _elsewhere(name: str, folder: Path, owner: Owner) -> str:
    return (
        f"the environment {name!r} belongs to process {owner.pid} on {owner.host}, in another "
        "container or on another host, and may be in use there; when that process has ended, "
        f"clean up there, or remove {folder}"
    )


def _owner(folder: Path, key: Key) -> str:
    with contextlib.suppress(JournalError):
        recorded = read(folder / JOURNAL, key)
        if recorded.owner is not None:  # None: the owner has not recorded itself yet
            age = format_duration(max(0.0, time.time() - recorded.facts["since"]))
            return f" by process {recorded.owner.pid} on {recorded.facts['host']} for {age}"
    return ""
