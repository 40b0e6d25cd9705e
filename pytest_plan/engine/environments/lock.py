"""A file that one process at a time has locked, until it lets go or ends, however it ends.

It is the lock that the library filelock takes, so that each keeps the other out. Where there is
`flock`, it is taken here: a lock of the library shows its descriptor to nobody, and by that we
tell that the file is still the one with its name, and close it in a child that a step forks.
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
    """A lock by `flock` on a file that is made when missing; it is its owner's alone.

    Args:
        file: what is locked; its folder is there.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None
        # A child that a step forks has the descriptor, too: it would hold the lock after us.
        os.register_at_fork(after_in_child=self._close)

    @property
    def is_held(self) -> bool:
        """Whether we have it."""
        return self._descriptor is not None

    def acquire(self) -> bool:
        """Take it; return whether we have it now. Never waits.

        Raises:
            OSError: the file cannot be made or locked, is a link, or was removed meanwhile.
        """
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), self._file.lstat()):
                raise FileNotFoundError(f"{self._file} was made again")
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let go of it. A second call does nothing."""
        if self._descriptor is not None:
            # Closing alone is not enough: a child forked by a C library may have it open, too.
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)


class LibraryLock:
    """The same by filelock, where nobody forks and what is open cannot be removed.

    Args:
        file: what is locked.
    """

    def __init__(self, file: Path) -> None:
        import filelock

        self._lock = filelock.FileLock(file, mode=_PRIVATE, thread_local=False)

    @property
    def is_held(self) -> bool:
        """Whether we have it."""
        return self._lock.is_locked

    def acquire(self) -> bool:
        """Take it; return whether we have it now. Never waits.

        Raises:
            OSError: the file cannot be made or locked.
        """
        with contextlib.suppress(TimeoutError):
            self._lock.acquire(timeout=0)
        return self.is_held

    def release(self) -> None:
        """Let go of it. A second call does nothing."""
        self._lock.release()


def file_lock(file: Path) -> Flock | LibraryLock:
    """Return the lock on `file` that this system has."""
    return LibraryLock(file) if sys.platform == "win32" else Flock(file)
