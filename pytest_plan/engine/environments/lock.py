"""The lock of an environment, and the process that owns the environment.

Only one process holds the lock at a time, until it releases the lock or ends.

The lock is compatible with the library filelock. If the system has `flock`, this module calls it
directly, because filelock hides the file descriptor. This module needs the descriptor to check that
the locked file still has its name, and to close the file in a child process that a step forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from pytest_plan.engine.environments.private import check_private
from pytest_plan.engine.journal.reader import Recorded, read
from pytest_plan.engine.journal.schema import place_of
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.identity import Owner, boot_id, host, namespace, this_owner

if sys.platform != "win32":
    import fcntl

RELEASED = "released"  # the file with the owner that has released the environment
RUN, RECOVERY = "run", "recovery"  # what the owner of an environment does with it
_PRIVATE = 0o600
_OWNER_TIMEOUT = 1.0  # seconds that a process has to record itself as owner after locking
_POLL = 0.01  # seconds between two checks for a recorded owner


class Flock:
    """A lock that uses `flock`.

    Args:
        file: the file to lock. It is created with mode 0600 if it is missing; its folder must
            exist.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None
        # A child that a step forks inherits the descriptor and would keep the lock after we end.
        os.register_at_fork(after_in_child=self._close)

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock."""
        return self._descriptor is not None

    def acquire(self) -> bool:
        """Try to acquire the lock without waiting; return whether this process now holds it.

        Raises:
            OSError: the file cannot be created or locked, is a symbolic link, or was removed
                during the call.
        """
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), self._file.lstat()):
                raise FileNotFoundError(f"{self._file} was replaced by another process")
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def is_in_place(self) -> bool:
        """Return whether this process holds the lock, and the locked file still has its name."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._file.lstat())
        except OSError:
            return False

    def is_taken(self) -> bool:
        """Return whether another process holds the lock; create and change nothing."""
        try:
            descriptor = os.open(self._file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._descriptor is not None:
            # Closing the file is not enough, because a child that a C library forked may have it
            # open.
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)


class LibraryLock:
    """A lock that uses filelock, for Windows, which has no `fork` and cannot remove open files.

    Args:
        file: the file to lock. It is created if it is missing.
    """

    def __init__(self, file: Path) -> None:
        import filelock

        self._lock = filelock.FileLock(file, mode=_PRIVATE, thread_local=False)

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock."""
        return self._lock.is_locked

    def acquire(self) -> bool:
        """Try to acquire the lock without waiting; return whether this process now holds it.

        Raises:
            OSError: the file cannot be created or locked.
        """
        with contextlib.suppress(TimeoutError):
            self._lock.acquire(timeout=0)
        return self.is_held

    def is_in_place(self) -> bool:
        """Return whether this process holds the lock. The system keeps a locked file in place."""
        return self.is_held

    def is_taken(self) -> bool:
        """Return False, because this cannot be known without creating the file."""
        return False

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        self._lock.release()


def file_lock(file: Path) -> Flock | LibraryLock:
    """Return the lock on `file` for this operating system."""
    return LibraryLock(file) if sys.platform == "win32" else Flock(file)


def note_release(folder: Path) -> None:
    """Record that this process has released the environment and left its journal.

    Raises:
        OSError: the record cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with open(os.open(folder / RELEASED, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(this_owner()._asdict(), file)


def released_by(folder: Path) -> Owner | None:
    """Return the last process that has released the environment; None if that is unknown."""
    with contextlib.suppress(OSError, ValueError, TypeError, JournalError):
        check_private(folder / RELEASED)
        return Owner(**json.loads((folder / RELEASED).read_bytes()))
    return None


def owner_of(recorded: Recorded) -> Owner | None:
    """Return the owner in a journal; None if none was recorded."""
    owner, facts = recorded.owner, recorded.facts
    if owner is None:
        return None
    return Owner(*owner, facts.get("host", host()), facts.get("namespace", namespace()))


def was_kept_elsewhere(recorded: Recorded) -> bool:
    """Return whether the journal was written on another host or in another container.

    A host with the same name is another one if it was booted since, and the file was copied.
    """
    owner = owner_of(recorded)
    if owner is None or owner.is_elsewhere:
        return owner is not None
    _, number = recorded.facts.get("place", (0, 0))
    return owner.boot != boot_id() and number != place_of(recorded.file)[1]


def is_being_cleaned(journal: Path, key: Key) -> bool:
    """Return whether an environment that is in use is being cleaned up after its run."""
    try:
        recorded = read(journal, key)
    except JournalError:
        return False
    owner = owner_of(recorded)
    # A process that has the lock of a dead owner has not recorded itself yet.
    return owner is None or not owner.may_live or recorded.facts.get("activity") == RECOVERY


def busy_message(name: str, journal: Path, key: Key) -> str:
    """Return the message that another process owns the environment.

    Up to the first semicolon, it says which process does that; the rest says what to do.
    """
    until = SystemClock.now() + _OWNER_TIMEOUT
    while not (use := _use(journal, key)) and SystemClock.now() < until:
        SystemClock.sleep(_POLL)
    return (
        f"the environment {name!r} is {use or 'in use by another process'}; to wait until it is "
        "free, use --plan-wait 60s; to use another one, use --plan-environment NAME"
    )


def elsewhere_message(name: str, folder: Path, owner: Owner) -> str:
    """Return the message that the owner of the environment cannot be seen from here."""
    return (
        f"the environment {name!r} belongs to process {owner.pid} on {owner.host}, in another "
        "container or on another host, and may be in use there; when that process has ended, "
        f"clean up there, or remove {folder}"
    )


def _use(journal: Path, key: Key) -> str:
    """Return what the owner does with the environment; "" if it has not recorded itself yet."""
    with contextlib.suppress(JournalError):
        recorded = read(journal, key)
        owner = owner_of(recorded)
        if owner is not None and owner.may_live:
            is_cleaned = recorded.facts.get("activity") == RECOVERY
            age = format_duration(max(0.0, SystemClock.wall() - recorded.facts["since"]))
            what = "being cleaned up" if is_cleaned else "in use"
            return f"{what} by process {owner.pid} on {owner.host} for {age}"
    return ""
