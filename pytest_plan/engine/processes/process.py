"""The programs that steps start, each in its own session.

To end a program is to end all processes that it started. Signals are sent through psutil, which
first checks that the pid still belongs to the same process. This module also has the temporary
files that `ctx.run` connects to a program.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from pytest_plan.engine.model.clock import Clock
from pytest_plan.engine.processes.tree import (
    COOKIE,
    KILL,
    created_at,
    is_alive,
    kill_all,
    signal_all,
    tree_members,
    wait_until,
)

if TYPE_CHECKING:
    import psutil

_REST_GRACE = 2.0  # maximum number of seconds between SIGTERM and SIGKILL once the root has ended


class Process:
    """A program started by a step. Cleanup ends the program and every process that it started.

    Attributes:
        args: the program and its command-line arguments.
        pid: its process id.
    """

    __module__ = "pytest_plan"

    def __init__(self, popen: subprocess.Popen[bytes], cookie: str) -> None:
        self._popen = popen
        self._cookie = cookie
        self._since = created_at(popen.pid)
        self._session_over = False
        # Once found, a process stays a member. The children of a PostgreSQL server, for example,
        # leave its session and overwrite their environment, so they could not be found after the
        # server has ended.
        self._known: dict[int, psutil.Process] = {}
        self.args: Sequence[str] = tuple(str(part) for part in _argv(popen))
        self.pid: int = popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; None while the program runs.

        If a signal ended the program, the status is the negative number of the signal.
        """
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit status, or None while the program runs."""
        return self._popen.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the program ends, and return its exit status.

        Args:
            timeout: the maximum time to wait, in seconds; None means no limit.

        Raises:
            subprocess.TimeoutExpired: the program was still running after `timeout`.
        """
        return self._popen.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send a signal to the program itself; do nothing if the program has ended."""
        self._popen.send_signal(number)

    def members(self) -> list[psutil.Process]:
        """Return the running processes of the tree."""
        ended = self.poll() is not None
        session = None if self._session_over else self.pid
        found = tree_members(self._cookie, self._since, root=self.pid, session=session)
        # Once the last member has ended, the system may give the session id to another program.
        self._session_over = self._session_over or (ended and not found)
        self._known.update({process.pid: process for process in found})
        self._known = {pid: process for pid, process in self._known.items() if is_alive(process)}
        return list(self._known.values())

    def signal_tree(self, number: int) -> None:
        """Send a signal to every running process of the tree."""
        signal_all(self.members(), number)
        self.poll()

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """End the tree.

        The root gets `number`, the processes that outlive it get SIGTERM, and those still running
        after that get SIGKILL.

        Args:
            clock: the clock for the waits.
            number: the signal that asks the root to stop.
            grace: the seconds that the root may take before the whole tree is killed.

        Raises:
            TimeoutError: some processes survived SIGKILL; the message lists their pids.
        """
        if number != KILL:
            self.members()
            self.send_signal(number)
            wait_until(clock, lambda: self.poll() is not None, grace)
            self._end_rest(clock, min(grace, _REST_GRACE))
        left = self._kill(clock)
        if left:
            raise TimeoutError(f"processes {left} of {self.args[0]!r} survived SIGKILL")

    def __repr__(self) -> str:
        status = self.poll()
        state = "running" if status is None else f"exited with status {status}"
        return f"<Process {self.pid} {self.args[0]!r} {state}>"

    def _end_rest(self, clock: Clock, grace: float) -> None:
        if self.poll() is None:
            return
        if rest := self.members():
            signal_all(rest, signal.SIGTERM)
            wait_until(clock, lambda: not self.members(), grace)

    def _kill(self, clock: Clock) -> list[int]:
        self.members()  # remember the processes that cannot be found once the root has ended
        if not self._session_over and hasattr(os, "killpg"):
            # This kills the whole group at once, even if its processes fork too fast to be listed.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, KILL)
        kill_all(clock, self.members)
        self.poll()
        return [member.pid for member in self.members()]


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    output: int | IO[bytes],
    errors: int | IO[bytes],
    input: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    user: str | int | None = None,
    group: str | int | None = None,
    cookie: str | None = None,
) -> Process:
    """Start a program in its own session, with a cookie in its environment.

    Args:
        argv: the program and its arguments.
        output: the destination of its standard output, as for `subprocess.Popen`.
        errors: the destination of its standard error, as for `subprocess.Popen`.
        input: the file for its standard input; None means `/dev/null`.
        env: its environment variables; None means those of this process.
        cwd: its working directory; None means that of this process.
        user: the user to run it as, by name or id; None means the current user.
        group: the group to run it as, by name or id; None means the primary group of `user`, or
            the current group if `user` is None.
        cookie: the cookie of its tree; None means a new random one.

    Raises:
        OSError: the program cannot be started.
        KeyError: the system does not know `user` or `group`.
    """
    cookie = cookie or secrets.token_hex(16)
    identity: dict[str, Any] = {}
    if user is not None:
        identity = {"user": user, "group": _group(user, group), "extra_groups": ()}
    elif group is not None:
        identity = {"group": group}
    popen = subprocess.Popen(
        [os.fspath(part) for part in argv],
        stdin=subprocess.DEVNULL if input is None else input,
        stdout=output,
        stderr=errors,
        cwd=cwd,
        env={**(os.environ if env is None else env), COOKIE: cookie},
        start_new_session=True,
        **identity,
    )
    return Process(popen, cookie)


def _group(user: str | int, group: str | int | None) -> str | int:
    if group is not None:
        return group
    import pwd

    return (pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)).pw_gid


def _argv(popen: subprocess.Popen[bytes]) -> Sequence[str]:
    args = popen.args
    return args if isinstance(args, list) else [str(args)]


class ProgramFiles:
    """Temporary files for a program's standard input, output and error.

    Pipes are not used, because a daemon that inherits a pipe keeps its reader waiting.

    Args:
        text: the text for its standard input; None means no input.
    """

    def __init__(self, text: str | None) -> None:
        self._text = text
        self._open: list[IO[bytes]] = []

    def __enter__(self) -> tuple[IO[bytes] | None, IO[bytes], IO[bytes]]:
        """Return the files for input (None if there is no input), output and error."""
        source = None
        if self._text is not None:
            source = self._new()
            source.write(self._text.encode())
            source.seek(0)
        return source, self._new(), self._new()

    def __exit__(self, *_: object) -> None:
        for file in self._open:
            file.close()

    def _new(self) -> IO[bytes]:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._open.append(file)
        return file


def content(file: IO[bytes]) -> str:
    """Return what a program has written to `file`, decoded as UTF-8."""
    file.seek(0)
    return file.read().decode("utf-8", "replace")
