"""A file lock. Only one process holds it at a time, until it releases the lock or ends.

The lock is compatible with the library filelock. If the system has `flock`, this module calls it
directly, because filelock hides the file descriptor. This module needs the descriptor to check that
the locked file still has its name, and to close the file in a child process that a step forks.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_PRIVATE = 0o600


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

    def is_taken(self) -> bool:
        """Return False, because this cannot be known without creating the file."""
        return False

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        self._lock.release()


def file_lock(file: Path) -> Flock | LibraryLock:
    """Return the lock on `file` for this operating system."""
    return LibraryLock(file) if sys.platform == "win32" else Flock(file)
