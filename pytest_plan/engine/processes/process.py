"""The programs that steps start, each in its own session.

To end a program is to end all processes that it started. Before a signal is sent, the identity of
the process is checked. This module also has the temporary files that `ctx.run` connects to a
program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from pytest_plan.engine.model.clock import Clock, SystemClock
from pytest_plan.engine.model.durations import Duration, parse_duration
from pytest_plan.engine.model.secret import KEY_VARIABLE
from pytest_plan.engine.processes.identity import Identity, identify
from pytest_plan.engine.processes.marks import COOKIE, Marks, marking, new_marks
from pytest_plan.engine.processes.tree import (
    KILL,
    kill_all,
    refuse_survivors,
    signal_all,
    tree_members,
    wait_until,
)

_SHORTEST_NAP, _LONGEST_NAP = 0.0005, 0.05  # seconds between looks at a program that runs
_REST_GRACE = 2.0  # maximum number of seconds between SIGTERM and SIGKILL once the root has ended


class Process:
    """A program started by a step. Cleanup ends the program and every process that it started.

    Attributes:
        args: the program and its command-line arguments.
        pid: its process id.
        may_end: whether the step does not need the program to run any more.
        was_seen_ended: whether `poll` or `returncode` has told the step that the program has ended.
        root: its identity.
    """

    __module__ = "pytest_plan"

    def __init__(self, popen: subprocess.Popen[bytes], args: Sequence[str], marks: Marks) -> None:
        self._popen = popen
        self._marks = marks
        self.root: Identity = identify(popen.pid)
        self._session_over = False
        # Once found, a process stays a member. Without the limit on file locks as a mark, a child
        # that leaves the session and overwrites its environment could not be found after its
        # parent has ended. The children of a PostgreSQL server do that.
        self._known: list[Identity] = []
        self.args: Sequence[str] = tuple(args)
        self.pid: int = popen.pid
        self.may_end: bool = False
        self.was_seen_ended: bool = False

    @property
    def returncode(self) -> int | None:
        """The exit status; None while the program runs.

        If a signal ended the program, the status is the negative number of the signal.
        """
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit status, or None while the program runs."""
        status = self.status()
        self.was_seen_ended = status is not None
        return status

    def status(self) -> int | None:
        """Return the exit status as `poll` does, but for the engine and not for the step."""
        return self._popen.poll()

    def wait(self, timeout: Duration | None = None) -> int:
        """Wait until the program ends, and return its exit status.

        Args:
            timeout: the maximum time to wait, such as 2, "2s" or "1m 30s"; None means no limit.

        Raises:
            PlanDefinitionError: `timeout` is not a duration.
            subprocess.TimeoutExpired: the program was still running after `timeout`.
        """
        longest = None if timeout is None else parse_duration(timeout, "Process.wait: timeout")
        before, self.may_end = self.may_end, True  # another thread may see the end first
        try:
            return wait_for_exit(self._popen, longest)
        except BaseException:
            self.may_end = before
            raise

    def finish(self, clock: Clock, timeout: float | None, is_stopping: Callable[[], bool]) -> int:
        """Wait until the program ends, and end what is left if it takes too long or must stop.

        Args:
            clock: the clock for the waits.
            timeout: the maximum time to wait, in seconds; None means no limit.
            is_stopping: a function that returns whether the step must stop.

        Raises:
            subprocess.TimeoutExpired: the program took longer than `timeout`.
        """
        try:
            return self.wait(timeout)
        except BaseException:
            self.end(clock, signal.SIGTERM, 1.0)
            raise
        finally:
            if is_stopping():
                self.end(clock, KILL, 0.0)

    def send_signal(self, number: int) -> None:
        """Send a signal to the program itself; do nothing if the program has ended."""
        self._popen.send_signal(number)

    def members(self) -> list[Identity]:
        """Return the running processes of the tree."""
        ended = self.status() is not None
        # If the limit on file locks marks the tree, a session needs no trust.
        is_trusted = self._marks.number is None and not self._session_over
        session = self.pid if is_trusted else None
        found = tree_members(self._marks, root=self.root, session=session, known=self._known)
        # Once the last member has ended, the system may give the session id to another program.
        self._session_over = self._session_over or (ended and not found)
        self._known = found
        return found

    def signal_tree(self, number: int) -> None:
        """Send a signal to every running process of the tree."""
        signal_all(self.members(), number)
        self.status()

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """End the tree.

        The root gets `number`, the processes that outlive it get SIGTERM, and those still running
        after that get SIGKILL.

        Args:
            clock: the clock for the waits.
            number: the signal that asks the root to stop.
            grace: the seconds that the root may take before the whole tree is killed.

        Raises:
            TimeoutError: some processes survived SIGKILL; the message lists them.
        """
        self.may_end = True
        if number != KILL:
            self.members()
            with contextlib.suppress(PermissionError):  # those that are left are named below
                self.send_signal(number)
            wait_until(clock, lambda: self.status() is not None, grace)
            self._end_rest(clock, min(grace, _REST_GRACE))
        self._kill(clock)
        refuse_survivors(self.members())

    def __repr__(self) -> str:
        status = self.status()
        state = "running" if status is None else f"exited with status {status}"
        return f"<Process {self.pid} {self.args[0]!r} {state}>"

    def _end_rest(self, clock: Clock, grace: float) -> None:
        if self.status() is None:
            return
        if rest := self.members():
            signal_all(rest, signal.SIGTERM)
            wait_until(clock, lambda: not self.members(), grace)

    def kill_group(self) -> None:
        """Kill the process group of a root that is running, and wait for the root."""
        if self.status() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, KILL)
            self._popen.wait()

    def _kill(self, clock: Clock) -> None:
        members = self.members()  # remember those that cannot be found once the root has ended
        if any(_group_of(member.pid) == self.pid for member in members):
            # This kills the whole group at once, even if its processes fork too fast to be listed.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, KILL)
        kill_all(clock, self.members)
        self.status()


def checked(argv: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return a program and its arguments as text; raise TypeError if `argv` is not a list."""
    if isinstance(argv, (str, bytes)) or not argv:
        raise TypeError(f"argv must be a list such as ['prog', 'argument'], not {argv!r}")
    return [os.fspath(part) for part in argv]


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
    marks: Marks | None = None,
) -> Process:
    """Start a program in its own session, with the marks of its tree.

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
        marks: the marks of its tree; None means new random ones.

    Raises:
        OSError: the program cannot be started.
        KeyError: the system does not know `user` or `group`.
    """
    marks = marks or new_marks()
    arguments = [os.fspath(part) for part in argv]
    environ = {**(os.environ if env is None else env), COOKIE: marks.cookie}
    environ.pop(KEY_VARIABLE, None)
    identity: dict[str, Any] = {}
    if user is not None:
        identity = {"user": user, "group": _group(user, group), "extra_groups": ()}
    elif group is not None:
        identity = {"group": group}
    how = marking(marks.number, arguments, environ, cwd, as_other_user=bool(identity))
    popen = subprocess.Popen(  # noqa: S603 - an argv list of the user
        [*how.prefix, *arguments],
        stdin=subprocess.DEVNULL if input is None else input,
        stdout=output,
        stderr=errors,
        cwd=cwd,
        env=environ,
        start_new_session=True,
        preexec_fn=how.before_exec,  # noqa: PLW1509 - a single C call
        **identity,
    )
    return Process(popen, arguments, marks)


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (OSError, AttributeError):
        return None


def _group(user: str | int, group: str | int | None) -> str | int:
    if group is not None:
        return group
    import pwd

    return (pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)).pw_gid


def arguments_of(argv: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return a program and its arguments as text; raise TypeError if they are not a list."""
    if isinstance(argv, (str, bytes)) or not argv:
        raise TypeError(f"argv must be a list such as ['prog', 'argument'], not {argv!r}")
    return [os.fspath(part) for part in argv]


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
        import tempfile  # imported late because few steps run programs

        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._open.append(file)
        return file


def content(file: IO[bytes]) -> str:
    """Return what a program has written to `file`, decoded as UTF-8."""
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def wait_for_exit(popen: subprocess.Popen[bytes], timeout: float | None) -> int:
    """Wait until a program ends, and return its exit status.

    `Popen.wait` would use a clock that tests can replace, if there is a timeout.

    Args:
        popen: the program.
        timeout: the maximum time to wait, in seconds; None means no limit.

    Raises:
        subprocess.TimeoutExpired: the program was still running after `timeout`.
    """
    if timeout is None:
        return popen.wait()
    deadline, nap = SystemClock.now() + timeout, _SHORTEST_NAP
    while (status := popen.poll()) is None:
        left = deadline - SystemClock.now()
        if left <= 0:
            raise subprocess.TimeoutExpired(popen.args, timeout)
        SystemClock.sleep(min(nap, left))
        nap = min(2 * nap, _LONGEST_NAP)
    return status
