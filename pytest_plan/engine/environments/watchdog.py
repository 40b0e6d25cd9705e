"""The reaper while it waits: a program of its own, small, that outlives what it watches.

`python -I -S lease.py PID COMMAND...` becomes COMMAND as soon as the process PID has ended,
unless it was told `done` before. It reads lines from its standard input: `done`, and
`limit SECONDS` or `limit none`: a time of the monotonic clock at which the process is ended by
SIGKILL, since it could not do that itself. Nothing of the package is imported here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time


def watch(pid: int) -> bool:
    """Wait; return whether the process has died with work to do."""
    lease = _Lease(pid)
    while not lease.is_over:
        lease.turn()
    return not lease.is_done


class _Lease:
    """What is known of the watched process.

    Attributes:
        is_over: whether there is nothing to wait for.
        is_done: whether the process has said that it needs nobody.
    """

    def __init__(self, pid: int) -> None:
        self.is_over = False
        self.is_done = False
        self._pid = pid
        self._limit: float | None = None
        self._rest = b""
        self._files = [0]
        self._handle = -1
        if hasattr(os, "pidfd_open"):
            # A descriptor of the process itself: the pipe may have been inherited by others.
            with contextlib.suppress(OSError):
                self._handle = os.pidfd_open(pid)
                self._files.append(self._handle)
        if os.getppid() != pid:
            # It has ended before we looked; what goes by its number may be another.
            self._read_rest()
            self.is_over = True

    def turn(self) -> None:
        """Wait for news and act on it."""
        left = None if self._limit is None else max(0.0, self._limit - time.monotonic())
        ready = select.select(self._files, [], [], left)[0]
        if 0 in ready:
            self._read()
        if self._handle in ready:
            self._read_rest()
            self.is_over = True
        if not ready and self._limit is not None:
            self._limit = None
            self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            else:
                os.kill(self._pid, signal.SIGKILL)

    def _read_rest(self) -> None:
        # It may have said its last word in the moment in which it ended.
        while 0 in self._files and select.select([0], [], [], 0)[0]:
            self._read()

    def _read(self) -> None:
        data = os.read(0, 4096)
        if not data:
            self._files.remove(0)
            # Without a descriptor of the process the end of the pipe is its end.
            self.is_over = self._handle < 0
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, _, value = line.decode().partition(" ")
            if word == "done":
                self.is_over = self.is_done = True
            elif word == "limit":
                self._limit = None if value == "none" else float(value)


if __name__ == "__main__":
    if watch(int(sys.argv[1])):
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - a program of its owner, by its path
    os._exit(0)  # without the end of an interpreter: who said `done` waits for that
