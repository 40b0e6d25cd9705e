"""Process trees: started in a session of their own, found again, and ended whole.

A tree is the root's descendants, the members of its session, and every process that carries
its cookie in the environment: a double-forked daemon leaves the first two, not the third.
Everything here is psutil's, which signals a pid only while its creation time is the same.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from pytest_plan.engine.model.clock import Clock

if TYPE_CHECKING:
    import psutil


import tempfile

from pytest_plan.engine.processes.tree import (
    COOKIE,
    KILL,
    _created,
    _lives,
    kill_all,
    signal_all,
    tree_members,
    wait_until,
)

_REST_GRACE = 2.0  # seconds for what outlives its root before SIGKILL


class Process:
    """A running program of a step, ended with everything it started when the step is cleaned up.

    Attributes:
        args: the argv it was started with.
        pid: its process id.
    """

    __module__ = "pytest_plan"

    def __init__(self, popen: subprocess.Popen[bytes], cookie: str) -> None:
        self._popen = popen
        self._cookie = cookie
        self._since = _created(popen.pid)
        self._session_over = False
        # Whoever was a member once stays one: the children of a PostgreSQL server leave its
        # session and overwrite their environment; when it dies nothing else leads to them.
        self._known: dict[int, psutil.Process] = {}
        self.args: Sequence[str] = tuple(str(part) for part in _argv(popen))
        self.pid: int = popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; None while it runs, negative when a signal ended it."""
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._popen.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status; raise `subprocess.TimeoutExpired` after `timeout` seconds."""
        return self._popen.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send a signal to the program itself; nothing when it has ended."""
        self._popen.send_signal(number)

    def members(self) -> list[psutil.Process]:
        """Return the living processes of the tree."""
        ended = self.poll() is not None
        session = None if self._session_over else self.pid
        found = tree_members(self._cookie, self._since, root=self.pid, session=session)
        # The number of a session is free for strangers once its last member has gone.
        self._session_over = self._session_over or (ended and not found)
        self._known.update({process.pid: process for process in found})
        self._known = {pid: process for pid, process in self._known.items() if _lives(process)}
        return list(self._known.values())

    def signal_tree(self, number: int) -> None:
        """Send a signal to every living process of the tree."""
        signal_all(self.members(), number)
        self.poll()

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """End the tree: `number` to the root, SIGTERM to what outlives it, then SIGKILL.

        Args:
            clock: measures the waiting.
            number: the signal that asks the root to stop.
            grace: seconds the root may take.

        Raises:
            TimeoutError: something survived even SIGKILL; the message names it.
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
        state = "running" if status is None else f"ended with {status}"
        return f"<Process {self.pid} {self.args[0]!r} {state}>"

    def _end_rest(self, clock: Clock, grace: float) -> None:
        if self.poll() is None:
            return
        if rest := self.members():
            signal_all(rest, signal.SIGTERM)
            wait_until(clock, lambda: not self.members(), grace)

    def _kill(self, clock: Clock) -> list[int]:
        self.members()  # so that those are known who lose their way back to the root with it
        if not self._session_over and hasattr(os, "killpg"):
            # The group dies at one blow, also one that forks faster than it can be listed.
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
    """Start `argv` in a session of its own, with a cookie and no input of ours."""
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
    """Temporary files for a program's input, output and errors: never a pipe of ours.

    Args:
        text: what the program reads; None: nothing.
    """

    def __init__(self, text: str | None) -> None:
        self._text = text
        self._open: list[IO[bytes]] = []

    def __enter__(self) -> tuple[IO[bytes] | None, IO[bytes], IO[bytes]]:
        """Return the files for input (None: there is none), output and errors."""
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
    """Return what a program has written."""
    file.seek(0)
    return file.read().decode("utf-8", "replace")
