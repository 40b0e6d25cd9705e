"""The program of the reaper while it waits: it watches a process and outlives it.

`python -I -S watchdog.py PID JOURNAL COMMAND...` becomes COMMAND as soon as its parent, the process
PID, has ended. Until then it keeps the files of the journal open, so that COMMAND can read them
even after they were removed: the variable `PYTEST_PLAN_JOURNAL` has their descriptors.

The program reads lines from its standard input:

- `done`: end without running COMMAND.
- `limit SECONDS PATIENCE`: from the time SECONDS on the monotonic clock, kill the process once it
  has given no sign of life for PATIENCE seconds. `limit none` removes that limit.
- `beat`: a sign of life.
- `journal PATH`: the journal is now this file; PATH is in hexadecimal digits.
- `worker PID BIRTH`: when the process ends, first kill the process PID, if BIRTH is its start time.

This module imports nothing from the package.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

VARIABLE = "PYTEST_PLAN_JOURNAL"  # "FILE:LOG:PATH": the descriptors of the journal, and its path
_POLL = 0.2  # without a pidfd, the seconds between two checks that the process is alive
_CHECKS = 10  # how often to look for a sign of life during the patience of a limit


def watch(pid: int, journal: str) -> bool:
    """Wait for the process to end; return whether it ended without sending `done`."""
    state = _Watch(pid, _Journal(journal))
    while not state.is_over:
        state.turn()
    if not state.is_done:
        state.end_workers()
        state.journal.hand_over()
    return not state.is_done


class _Journal:
    """The files of the owner's journal, kept open.

    Args:
        path: the path of the journal.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._files = [_opened(path), _opened(f"{path}-wal")]

    def follow(self, path: str) -> None:
        """Keep the files of another journal open instead."""
        for file in self._files:
            if file >= 0:
                os.close(file)
        self._path = path
        self._files = [_opened(path), _opened(f"{path}-wal")]

    def hand_over(self) -> None:
        """Let the next program of this process use the files."""
        for file in self._files:
            if file >= 0:
                os.set_inheritable(file, True)
        journal, log = self._files
        os.environ[VARIABLE] = f"{journal}:{log}:{self._path}"


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK)
    except OSError:
        return -1


class _Limit:
    """Decides when a process that exceeds its limit counts as stuck.

    Only time in which the process could have given a sign of life counts. Counting begins again
    after a sign of life, and after time in which the process or this program was stopped.
    """

    def __init__(self, pid: int, at: float, patience: float) -> None:
        self._pid = pid
        self._patience = patience
        self._interval = patience / _CHECKS
        self._since = max(at, time.monotonic())
        self._quiet = 0.0
        self._has_beaten = False

    @property
    def next_check(self) -> float:
        """The time of the next check, on the monotonic clock."""
        return self._since + self._interval

    def beat(self) -> None:
        """Note a sign of life."""
        self._has_beaten = True

    def is_stuck(self, now: float) -> bool:
        """Return whether the process has given no sign of life for too long."""
        if now < self.next_check:
            return False
        passed, self._since = now - self._since, now
        was_stopped = passed > 3 * self._interval + 1.0 or _state_of(self._pid) in "Tt"
        if self._has_beaten or was_stopped:
            self._has_beaten, self._quiet = False, 0.0
            return False
        self._quiet += passed
        return self._quiet >= self._patience


class _Watch:
    """The state of watching one process.

    Attributes:
        is_over: whether the process has ended or has sent `done`.
        is_done: whether the process has sent `done`.
        journal: the journal of the process.
    """

    def __init__(self, pid: int, journal: _Journal) -> None:
        self.journal = journal
        self.is_over = False
        self.is_done = False
        self._pid = pid
        self._limit: _Limit | None = None
        self._workers: list[tuple[int, str]] = []
        self._rest = b""
        self._files = [0]
        # Waiting for the end of the pipe is not enough, because a process that the owner has forked
        # may have the pipe open.
        self._handle = _handle_of(pid)
        if self._handle >= 0:
            self._files.append(self._handle)
        self._check_parent()  # another process may already have its pid

    def turn(self) -> None:
        """Wait for a line, the limit or the end of the process, then handle it."""
        ready = select.select(self._files, [], [], self._seconds_to_wait())[0]
        if 0 in ready:
            self._read()
        if self._handle < 0:
            self._check_parent()
        elif self._handle in ready:
            self._end()
        if self._limit is not None and self._limit.is_stuck(time.monotonic()):
            self._limit = None
            _kill(self._pid, self._handle)

    def end_workers(self) -> None:
        """Kill the workers of the process that are still running."""
        for pid, birth in self._workers:
            handle = _handle_of(pid)  # from here on, the handle cannot refer to another process
            if _birth_of(pid) == birth:
                _kill(pid, handle)
            if handle >= 0:
                os.close(handle)

    def _seconds_to_wait(self) -> float | None:
        left = None if self._handle >= 0 else _POLL
        if self._limit is None:
            return left
        check = max(0.0, self._limit.next_check - time.monotonic())
        return check if left is None else min(check, left)

    def _check_parent(self) -> None:
        """Note the end of the process: a process whose parent has ended gets another parent."""
        if os.getppid() != self._pid:
            self._end()

    def _end(self) -> None:
        # The process may have sent a line just before it ended.
        while 0 in self._files and select.select([0], [], [], 0)[0]:
            self._read()
        self.is_over = True

    def _read(self) -> None:
        data = os.read(0, 4096)
        if not data:
            self._files.remove(0)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._handle_line(*line.decode().split())

    def _handle_line(self, word: str, *values: str) -> None:
        if word == "done":
            self.is_over = self.is_done = True
        elif word == "limit":
            at = None if values[0] == "none" else float(values[0])
            self._limit = None if at is None else _Limit(self._pid, at, float(values[1]))
        elif word == "beat" and self._limit is not None:
            self._limit.beat()
        elif word == "journal":
            self.journal.follow(os.fsdecode(bytes.fromhex(values[0])))
        elif word == "worker":
            self._workers.append((int(values[0]), values[1]))


def _handle_of(pid: int) -> int:
    """Return a file descriptor that refers to the process, or -1 if the system has none."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return -1


def _kill(pid: int, handle: int) -> None:
    with contextlib.suppress(OSError):
        if handle >= 0:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)


def _state_of(pid: int) -> str:
    """Return the letter for the state of a process; "?" if it is unknown."""
    if os.path.exists("/proc/self/stat"):
        return (_stat_of(pid) or "?")[0]
    import subprocess  # loaded only during the last seconds before a kill

    argv = ["ps", "-o", "state=", "-p", str(pid)]
    with contextlib.suppress(OSError):
        said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout  # noqa: S603 - fixed words
        return said.strip()[:1] or "?"
    return "?"


def _birth_of(pid: int) -> str:
    """Return the start time of a process as on Linux, or "" if it is unknown."""
    fields = _stat_of(pid)
    return fields[19] if len(fields) > 19 else ""


def _stat_of(pid: int) -> list[str]:
    # The program name precedes these fields, in parentheses, and may contain any character.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].decode().split()
    return []


if __name__ == "__main__":
    if watch(int(sys.argv[1]), sys.argv[2]):
        os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606 - the owner chose this command
    os._exit(0)  # skip the interpreter's shutdown, because the owner is waiting
