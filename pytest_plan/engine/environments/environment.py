"""The folder of one environment, with its lock and its journal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_plan.engine.environments.lock import (
    RELEASED,
    RUN,
    busy_message,
    elsewhere_message,
    file_lock,
    note_release,
    owner_of,
    released_by,
)
from pytest_plan.engine.environments.private import (
    TAGS,
    check_ours,
    has_private_modes,
    make_files_private,
    make_private,
    remove_tagged,
    repair_modes,
    temporary_parent,
)
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import ForeignError, Recorded, read, refuse_foreign
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.journal.schema import place_of
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.journal.writing.place import Place
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.identity import Owner, host, namespace, this_owner

FOLDER = "environments"
JOURNAL = "journal.sqlite"
LOCK = "lock"
LOG = "reaper.log"
_FILES = (JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm", f"{JOURNAL}.new", LOG, RELEASED, LOCK)
_TRIES = 20  # maximum number of attempts to lock a folder that other processes remove


class BusyError(JournalError):
    """Another process owns the environment."""


class ElsewhereError(JournalError):
    """The owner of the environment is on another host or in another container, and may live."""


class Environment(Place):
    """An environment that this process owns until `release`.

    If its folder, its lock or its journal is removed or replaced, they are created again in the
    same place or, if that cannot be used any more, in the system's temporary folder.

    Args:
        parent: the `plan_dir`.
        name: the environment's name: letters, digits, `.`, `_` and `-`.
        key: the key that seals its journal; None means the key of this user.

    Attributes:
        name: the name of the environment.
        folder: the folder that contains its journal and its lock.
        key: the key that seals its journal.
        on_repair: a function that is called, from any thread, with a message about a repair and
            the path of the journal.

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
        self._made: list[int] | None = None  # the place of the journal that this process writes
        self.on_repair: Callable[[str, Path], None] = lambda text, file: None
        self._refuse_foreign()
        self._claim()
        try:
            self._refuse_living_owner()
        except JournalError:
            self._lock.release()
            raise
        except OSError as error:  # no process can be identified
            self._lock.release()
            raise JournalError(f"{self.folder} cannot be used: {error}") from error

    def _refuse_foreign(self) -> None:
        """Leave the folder of somebody else exactly as it is, unless somebody else uses it."""
        try:
            if os.path.lexists(self.file):
                refuse_foreign(self.file, self.key)
        except ForeignError:
            if self._lock.is_taken():
                raise BusyError(busy_message(self.name, self.file, self.key)) from None
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
            raise BusyError(busy_message(self.name, self.file, self.key))

    def _refuse_living_owner(self) -> None:
        """Raise an error if the owner in the journal may live, although the lock is free."""
        if not os.path.lexists(self.file):
            return
        try:
            recorded = self.read()
        except JournalError:
            return  # without a readable journal nothing is cleaned up
        owner = owner_of(recorded)
        if owner is None or released_by(self.folder) == owner:
            return
        if owner.is_elsewhere:
            if not recorded.is_kept:
                raise ElsewhereError(elsewhere_message(self.name, self.folder, owner))
        elif owner.may_live:
            raise BusyError(busy_message(self.name, self.file, self.key))

    @property
    def file(self) -> Path:
        """The path of its journal."""
        return self.folder / JOURNAL

    def recorded(self) -> Recorded | None:
        """Return the content of its journal and make its files private; None if it has none.

        Raises:
            ForeignError: the journal was not written by this user, or not where it is now.
            JournalError: the journal cannot be read, or other users can change it.
        """
        if not os.path.lexists(self.file):
            return None
        recorded = self.read()
        recorded.check_place()
        if make_files_private(self.folder / name for name in _FILES):
            self.on_repair(f"the files of environment {self.name!r} are private again", self.file)
        return recorded

    def read(self) -> Recorded:
        """Return the content of the journal that this process has written.

        Raises:
            JournalError: the journal cannot be read.
        """
        return read(self.file, self.key)

    def open(
        self, references: References, fingerprint: Callable[[str], str], *, outlives: bool = False,
        **facts: Any,
    ) -> Journal:  # fmt: skip
        """Open the journal for writing, or create it, and record this process as the owner.

        Args:
            references: the references to functions and classes that the journal records.
            fingerprint: a function that takes the name of a step and returns its fingerprint.
            outlives: whether a later run may use the steps again; see `Journal`.
            facts: additional facts about the run to record, or facts to replace.

        Raises:
            JournalError: the journal cannot be created or written.
        """
        (self.folder / RELEASED).unlink(missing_ok=True)
        pid, birth, boot, *_ = this_owner()
        journal = Journal(self.file, references, fingerprint, self.key, self, outlives=outlives)
        self._made = place_of(self.file)
        try:
            own = {
                "name": self.name, "status": "open", "place": place_of(self.file),
                "owner": {"pid": pid, "birth": birth, "boot": boot}, "host": host(),
                "namespace": namespace(), "since": SystemClock.wall(), "activity": RUN,
            }  # fmt: skip
            journal.set(**{**own, **facts})
        except JournalError:
            journal.close()
            raise
        return journal

    def is_intact(self) -> bool:
        """Return whether the lock has its name, and no other user can change the folder."""
        return self._lock.is_in_place() and has_private_modes(self.folder, self._parent)

    def restore(self) -> Path:
        """Repair or move the folder and its lock, and return the path of the journal.

        Raises:
            OSError, JournalError: neither is possible.
        """
        if self.is_intact() and self._is_file_ours():
            return self.file
        try:
            self._repair()
        except (OSError, JournalError):
            self._move()
        else:
            if self._is_file_ours():
                self.on_repair(f"the folder {self.folder} was changed; it is repaired", self.file)
        return self.file

    def written_again(self, file: Path) -> None:
        """Report that the journal was lost, and that it has been written again as `file`."""
        self._made = place_of(file)
        text = "the journal of this run was removed or replaced; it has been written again"
        self.on_repair(f"{text}: {file}", file)

    def _repair(self) -> None:
        if not self._parent.parent.is_dir():
            raise JournalError(f"{self._parent.parent} is missing")
        repair_modes(self.folder, self._parent)
        make_private(self.folder, self._parent)
        if not self._lock.is_in_place():
            lock = file_lock(self.folder / LOCK)
            if not lock.acquire():
                raise BusyError(f"{self.folder} is in use by another process")
            self._lock.release()
            self._lock = lock
        if self._is_file_ours():
            self.file.chmod(0o600)
        elif os.path.lexists(self.file):
            self.set_aside(this_owner())

    def _is_file_ours(self) -> bool:
        """Return whether the path of the journal leads to what this process writes."""
        with contextlib.suppress(OSError):
            return place_of(self.file) == self._made
        return False

    def set_aside(self, owner: Owner) -> None:
        """Rename what is in the place of the journal; it is not ours, so it is not removed.

        Args:
            owner: the owner of the journal that was in this place.

        Raises:
            BusyError: it is the journal of another owner, and something in it is to clean up.
            OSError: it cannot be renamed.
        """
        if _is_due_for_another(self.file, self.key, owner):
            raise BusyError(f"{self.file} is the journal of another run")
        self.file.rename(self.folder / f"{JOURNAL}.replaced-{os.urandom(4).hex()}")

    def _move(self) -> None:
        parent = temporary_parent()
        folder = parent / FOLDER / self.name
        make_private(folder, parent)
        lock = file_lock(folder / LOCK)
        if not lock.acquire():
            raise BusyError(f"{folder} is in use by another process")
        self._lock.release()
        self._parent, self.folder, self._lock = parent, folder, lock

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
        elif self._made is not None:
            with contextlib.suppress(OSError):
                note_release(self.folder)
        self._lock.release()
        if remove:
            with contextlib.suppress(OSError):
                self.folder.parent.rmdir()
            remove_tagged(self._parent)


def _is_due_for_another(file: Path, key: Key, owner: Owner) -> bool:
    with contextlib.suppress(JournalError):
        recorded = read(file, key)
        return bool(recorded.due()) and owner_of(recorded) != owner
    return False


def _remove_files(folder: Path) -> None:
    """Remove the files that we have created in the folder, and the folder if that was all."""
    for name in _FILES:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


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
    for name in sorted({folder.name for folder in _folders(parent)} - set(names(parent))):
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
