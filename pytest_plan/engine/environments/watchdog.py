"""The program of the reaper while it waits: it watches a process and outlives it.

`python -I -S watchdog.py PID COMMAND...` becomes COMMAND as soon as the process PID has ended. It
reads lines from its standard input. On `done` it ends without running COMMAND. `limit SECONDS` sets
the time, on the monotonic clock, at which it kills the process; `limit none` removes that limit.
This module imports nothing from the package.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time


def watch(pid: int) -> bool:
    """Wait for the process to end; return whether it ended without sending `done`."""
    state = _Watch(pid)
    while not state.is_over:
        state.turn()
    return not state.is_done


class _Watch:
    """The state of watching one process.

    Attributes:
        is_over: whether the process has ended or has sent `done`.
        is_done: whether the process has sent `done`.
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
            # Waiting for the end of the pipe is not enough, because other processes may have
            # inherited the pipe.
            with contextlib.suppress(OSError):
                self._handle = os.pidfd_open(pid)
                self._files.append(self._handle)
        if os.getppid() != pid:
            # The process has already ended, and another process may now have its pid.
            self._read_rest()
            self.is_over = True

    def turn(self) -> None:
        """Wait for a line, the limit or the end of the process, then handle it."""
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
        # The process may have sent a line just before it ended.
        while 0 in self._files and select.select([0], [], [], 0)[0]:
            self._read()

    def _read(self) -> None:
        data = os.read(0, 4096)
        if not data:
            self._files.remove(0)
            # Without a pidfd, treat the end of the pipe as the end of the process.
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
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the owner chose this command
    os._exit(0)  # skip the interpreter's shutdown, because the owner is waiting
