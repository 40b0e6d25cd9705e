"""What must keep running: a program, the daemon that a program has left, and a kept program."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pytest_plan.engine.processes.identity import Identity, session_of
from pytest_plan.engine.processes.listeners import Stranger, descends_from, still_there
from pytest_plan.engine.processes.orphan import KeptProcess
from pytest_plan.engine.processes.process import Process
from pytest_plan.engine.shared.log import StepLog

_PATIENCE = 2.0  # how many seconds after its start a program may take to use its ports
_LAST_LINES = 10  # the lines of a needed step's log that an error shows
_REST = 1.0  # how many seconds processes of a program's session may outlive it, and be no daemon

_TOO = "which has ended too"


class Watched(abc.ABC):
    """Something that a step has started and that must keep running.

    Args:
        name: the name of its program.
        log: the log of its step.
        call: the identity of the call that started it; None if an earlier run did.
        strangers: the processes that listened before on the ports in its arguments.
        began: the time on the plan's clock at which it began.

    Attributes:
        has_status: whether its exit status tells whether it has failed.
        is_kept: whether an earlier run has started it.
    """

    has_status = False
    is_kept = False

    def __init__(
        self,
        name: str,
        log: StepLog,
        call: object = None,
        strangers: Sequence[Stranger] = (),
        began: float = 0.0,
    ) -> None:
        self.call = call
        self._name = name
        self._log = log
        self._strangers = strangers
        self._began = began

    @abc.abstractmethod
    def members(self) -> list[Identity]:
        """Return its running processes."""

    @abc.abstractmethod
    def is_lost(self, now: float, *, waiting: bool) -> bool:
        """Return whether it has ended although it must run.

        Args:
            now: the time on the plan's clock.
            waiting: whether its step is in `wait_until`, so that it must not exit with 0 either.
        """

    def may_end(self) -> bool:
        """Return whether the step does not need it to run any more."""
        return False

    def awaited(self) -> list[Identity]:
        """Return the processes whose end must be noticed, because it may have ended with them."""
        return self.members()

    def has_ended(self, now: float) -> bool:
        """Return whether it has ended although it must run while tests do.

        Call this as soon as one of the processes that `awaited` has returned ends.
        """
        return self.is_lost(now, waiting=True)

    def how(self) -> tuple[str, int | None, str]:
        """Return its name, its exit status if that is known, and how it has ended, on one line."""
        return self._name.strip("'"), None, self._ending()

    def is_settled(self, step: str, now: float) -> bool:
        """Return whether a server that answers can be this one, or nothing more is learned.

        Args:
            step: the step that started it.
            now: the time on the plan's clock. Some time after it began, a warning about the
                strangers is given instead.
        """
        if not self._strangers or self.may_end():
            return True
        members = (member.pid for member in self.members())
        strangers = self._strangers = still_there(self._strangers, members)
        if strangers and now - self._began >= _PATIENCE:
            self._strangers = ()
            self._warn_of(strangers, step)
        return not self._strangers

    def was_answered(self) -> None:  # noqa: B027 - only a program has a status to look at
        """Let it rest if the function that the step waits for has itself seen its end."""

    def notice(self, *, is_run_over: bool) -> None:  # noqa: B027 - a kept program never rests
        """Let it rest if it has ended in a way that is no failure.

        Args:
            is_run_over: whether the step has just run another program, which may have ended it.
        """

    def lost(self, step: str) -> RuntimeError:
        """Return the error of the step that started it."""
        ending = self._ending()
        comma = "," if ending.endswith(_TOO) else ""
        return RuntimeError(f"{ending}{comma} during startup of step {step!r}{self._advice()}")

    def lost_by(self, need: str, step: str) -> RuntimeError:
        """Return the error of `step`, which needs the step `need` that started it."""
        owner = f"it belongs to step {need!r}, which step {step!r} needs"
        error = RuntimeError(f"{self._ending()}; {owner}{self._advice()}")
        if lines := self._log.tail(_LAST_LINES):
            error.add_note(f"the last lines of the log of step {need!r}:\n{lines}")
        return error

    def _ending(self) -> str:
        return "".join(f"{one}; " for one in self._strangers) + self._name

    def _advice(self) -> str:
        return ""

    def _warn_of(self, strangers: Sequence[Stranger], step: str) -> None:
        listed = " and ".join(map(str, strangers))
        text = f"{listed}; it may answer in place of {self._name}, which step {step!r} has started"
        self._log.write(f"warning: {text}\n")
        warnings.warn(text, RuntimeWarning, stacklevel=2)


class Program(Watched):
    """A program that `ctx.start` has started.

    It need not run any more if the step has waited for its end, if it was ended on purpose, or if
    it exited with status 0 while its step was not in `wait_until`.

    Args:
        process: the process.
        log: the log of its step.
        call: the identity of the call that started it.
        strangers: the processes that listened before on the ports in its arguments.
        began: the time on the plan's clock at which it began.
    """

    has_status = True

    def __init__(
        self,
        process: Process,
        log: StepLog,
        call: object,
        strangers: Sequence[Stranger],
        began: float,
    ) -> None:
        super().__init__(_name_in(process.args), log, call, strangers, began)
        self._process = process
        self._has_daemon = False

    def members(self) -> list[Identity]:
        """Return the running processes of its tree."""
        return self._process.members()

    def awaited(self) -> list[Identity]:
        """Return its first process, or, once that has exited, the daemon that it has left."""
        return [self._process.root] if self._process.status() is None else self.members()

    def how(self) -> tuple[str, int | None, str]:
        """Return its name, its exit status, and how it has ended, on one line."""
        name, _, ending = super().how()
        return name, self._process.status(), ending

    def is_lost(self, now: float, *, waiting: bool) -> bool:
        """Return whether the program, or the daemon that it has left, has ended."""
        status = self._process.status()
        if status is None or self._process.may_end:
            return False
        if status != 0:
            return True
        if self._process.members():
            self._has_daemon = True
            return False
        return waiting or self._has_daemon or bool(self._strangers)

    def may_end(self) -> bool:
        """Return whether the step does not need it to run any more."""
        return self._process.may_end

    def was_answered(self) -> None:
        """Let the program rest if the function has looked at its exit status."""
        if self._process.was_seen_ended:
            self._process.may_end = True

    def notice(self, *, is_run_over: bool) -> None:
        """Let the program rest if it has exited with status 0 and has left no daemon."""
        if self._process.status() == 0 and not self._has_daemon:
            self._has_daemon = bool(self._process.members())
            self._process.may_end = self._process.may_end or not self._has_daemon

    def _ending(self) -> str:
        status = self._process.status() or 0
        ending = f"exited with status {status}" if status >= 0 else f"died of signal {-status}"
        if self._has_daemon:
            ending += f" and left a daemon, {_TOO}"
        return f"{super()._ending()} {ending}"


class Remains(Protocol):
    """The processes that programs have left running, until a cleanup ends them.

    Attributes:
        is_ended: whether a cleanup has ended them.
        known: the processes that belong to a known daemon.
    """

    is_ended: bool
    known: set[Identity]

    def members(self) -> list[Identity]:
        """Return the processes that are still running."""


class Daemon(Watched):
    """The processes that a program of `ctx.run` has left running.

    They need not run any more if they end while the step runs another program, which may have
    stopped them. Processes in the session of the program, such as the other end of a pipe, count
    as a daemon only once they have outlived the program for some time.

    Args:
        process: the program, which has ended.
        members: the processes that it has left.
        remains: all processes that programs of the call have left.
        log: the log of its step.
        call: the identity of the call that ran the program.
        strangers: the processes that listened before on the ports in its arguments.
        began: the time on the plan's clock at which the program began.
        now: the time on the plan's clock at which it has ended.
    """

    def __init__(
        self,
        process: Process,
        members: Sequence[Identity],
        remains: Remains,
        log: StepLog,
        call: object,
        *,
        strangers: Sequence[Stranger],
        began: float,
        now: float,
    ) -> None:
        super().__init__(_name_in(process.args), log, call, strangers, began)
        self._process = process
        self._members = list(members)
        self._remains = remains
        remains.known.update(members)
        self._proven_at = now + _REST
        self._is_proven = self._has_left_session()
        self._was_alive = True
        self._rests = False

    def members(self) -> list[Identity]:
        """Return the processes that are still running."""
        return [member for member in self._members if member.is_alive()]

    def is_lost(self, now: float, *, waiting: bool) -> bool:
        """Return whether all of the processes, and those that they have started, have ended."""
        if self.may_end():
            return False
        if not self._is_alive():
            self._rests = not self._is_proven
            return self._is_proven
        self._is_proven = self._is_proven or now >= self._proven_at or self._has_left_session()
        return False

    def may_end(self) -> bool:
        """Return whether the step does not need it to run any more."""
        return self._rests or self._remains.is_ended

    def has_ended(self, now: float) -> bool:
        """Return whether it has ended; it is a daemon if it has lasted until now."""
        self._is_proven = self._is_proven or now >= self._proven_at
        return self.is_lost(now, waiting=True)

    def notice(self, *, is_run_over: bool) -> None:
        """Let it rest if it has ended while the step ran another program.

        If it is running, note whether it has left the session of its program meanwhile.
        """
        is_alive = self.may_end() or self._is_alive()
        if is_run_over and self._was_alive and not is_alive:
            self._rests = True
        if is_alive:
            self._is_proven = self._is_proven or self._has_left_session()
        self._was_alive = is_alive

    def _is_alive(self) -> bool:
        if any(member.is_alive() for member in self._members):
            return True
        # The process that was found may have been about to fork and exit.
        known = self._remains.known
        self._members = [one for one in self._remains.members() if not _belongs_to(known, one)]
        known.update(self._members)
        return bool(self._members)

    def _has_left_session(self) -> bool:
        sessions = {session_of(member.pid) for member in self._members}
        return not sessions <= {self._process.pid, -1}

    def _ending(self) -> str:
        status = self._process.status()
        return f"{super()._ending()} exited with status {status} and left a daemon, {_TOO}"

    def _advice(self) -> str:
        return "; if it may end, use ctx.start(..., watch=False) and Process.wait, not ctx.run"


class Kept(Watched):
    """A program that an earlier run has started and kept.

    Args:
        root: its first process, or the daemon that it has left behind.
        log: the log of its step.
        process: the program with its whole tree; None if no test can stop it.
    """

    is_kept = True

    def __init__(self, root: Identity, log: StepLog, process: KeptProcess | None = None) -> None:
        super().__init__(str(root), log)
        self._root = root
        self._process = process

    def members(self) -> list[Identity]:
        """Return its first process, if it is running."""
        return [self._root] if self._root.is_alive() else []

    def is_lost(self, now: float, *, waiting: bool) -> bool:
        """Return whether its first process has ended."""
        return not self.may_end() and not self.members()

    def may_end(self) -> bool:
        """Return whether a test or a cleanup has stopped it."""
        return self._process is not None and self._process.may_end

    def _ending(self) -> str:
        return f"{super()._ending()}, which an earlier run has kept, has ended"


def _belongs_to(known: set[Identity], one: Identity) -> bool:
    """Return whether a process is known, or a descendant of one that is."""
    return one in known or any(descends_from(one.pid, k.pid) for k in known if k.is_alive())


def _name_in(argv: Sequence[str]) -> str:
    return repr(Path(argv[0]).name)
