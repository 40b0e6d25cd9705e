"""The programs of all steps of a run, and whether those that must keep running still do."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pytest_plan.engine.journal.null import NullJournal
from pytest_plan.engine.processes.identity import Identity
from pytest_plan.engine.processes.listeners import (
    Stranger,
    descends_from,
    ports_in,
    still_there,
    strangers_on,
)
from pytest_plan.engine.processes.marks import Marks
from pytest_plan.engine.processes.process import Process
from pytest_plan.engine.shared.log import StepLog

_PATIENCE = 2.0  # how many seconds after its start a program may take to use its ports
_LAST_LINES = 10  # the lines of a needed step's log that an error shows


class Members(Protocol):
    """A process tree whose running members can be listed."""

    def members(self) -> list[Identity]:
        """Return the running processes of the tree."""


class Program:
    """A program that a step has started and that must keep running.

    It need not run any more if the step has waited for its end, if it was ended on purpose, or if
    it exited with status 0 while its step was not in `wait_until`.

    Args:
        process: the process.
        call: the identity of the call that started it.
        log: the log of its step.
        strangers: the processes that listened before on the ports in its arguments.
        began: the time on the plan's clock at which it began.
    """

    def __init__(
        self,
        process: Process,
        call: object,
        log: StepLog,
        strangers: Sequence[Stranger],
        began: float,
    ) -> None:
        self.process = process
        self.call = call
        self.log = log
        self._has_daemon = False
        self._strangers = strangers
        self._began = began

    def is_lost(self, *, waiting: bool) -> bool:
        """Return whether the program has ended although it must run.

        Args:
            waiting: whether its step is in `wait_until`, so that it must not exit with 0 either.
        """
        status = self.process.status()
        if status is None or self.process.may_end:
            return False
        if status != 0:
            return True
        if self.process.members():
            self._has_daemon = True
            return False
        return waiting or self._has_daemon or bool(self._strangers)

    def is_settled(self, now: float) -> bool:
        """Return whether a server that answers can be this program, or nothing more is learned.

        Args:
            now: the time on the plan's clock. Some time after the program began, a warning about
                the strangers is given instead.
        """
        if not self._strangers or self.process.may_end:
            return True
        members = (member.pid for member in self.process.members())
        self._strangers = still_there(self._strangers, members)
        if self._strangers and now - self._began >= _PATIENCE:
            warn_of(self._strangers, self.process.args, self.log)
            self._strangers = ()
        return not self._strangers

    def notice(self) -> None:
        """Let a program that has exited with status 0 rest, unless it has left a daemon running."""
        if self.process.status() == 0 and not self._has_daemon:
            self._has_daemon = bool(self.process.members())
            self.process.may_end = self.process.may_end or not self._has_daemon

    def lost(self, step: str) -> RuntimeError:
        """Return the error of the step that started the program."""
        return RuntimeError(f"{self._ending()} during startup of step {step!r}")

    def lost_by(self, need: str, step: str) -> RuntimeError:
        """Return the error of `step`, which needs the step `need` that started the program."""
        text = f"{self._ending()}; it belongs to step {need!r}, which step {step!r} needs"
        error = RuntimeError(text)
        if lines := self.log.tail(_LAST_LINES):
            error.add_note(f"the last lines of the log of step {need!r}:\n{lines}")
        return error

    def _ending(self) -> str:
        status = self.process.status() or 0
        ending = f"exited with status {status}" if status >= 0 else f"died of signal {-status}"
        if self._has_daemon:
            ending += " and left a daemon, which has ended too,"
        strangers = "".join(f"{one}; " for one in self._strangers)
        return f"{strangers}{Path(self.process.args[0]).name!r} {ending}"


def warn_of(strangers: Sequence[Stranger], argv: Sequence[str], log: StepLog) -> None:
    """Warn that strangers may answer in place of a program, also in the log of its step."""
    listed = " and ".join(map(str, strangers))
    text = f"{listed}; it may answer in place of {Path(argv[0]).name!r}"
    log.write(f"warning: {text}\n")
    warnings.warn(text, RuntimeWarning, stacklevel=2)


class Programs:
    """The programs of all steps of a run.

    The programs of a step change only on the thread of its call. Other threads only read them.

    Attributes:
        needs: the names of the steps that each step needs.
    """

    def __init__(self) -> None:
        self.needs: dict[str, tuple[str, ...]] = {}
        self._programs: dict[str, list[Program]] = {}
        self._trees: dict[str, list[tuple[Members, int | None]]] = {}
        self._waited: set[str] = set()
        self._ports: dict[str, set[int]] = {}
        self._marks: list[Marks] = []

    def add(self, step: str, program: Program, number: int | None) -> None:
        """Add a program that a step has started, with its number in the journal."""
        self._programs[step] = [*self._programs.get(step, ()), program]
        self.add_tree(step, program.process, number)

    def own(self, marks: Marks) -> Marks:
        """Let processes with these marks count as programs of the plan; return the marks."""
        self._marks.append(marks)
        return marks

    def took(self, step: str, port: int) -> int:
        """Record that a step took a free port, and return the port."""
        self._ports.setdefault(step, set()).add(port)
        return port

    def concern(self, step: str) -> bool:
        """Return whether there is anything to check when a hook of the step returns."""
        return step in self._programs or step in self._trees or step in self._waited

    def strangers(self, step: str, argv: Sequence[str]) -> list[Stranger]:
        """Return the processes outside the plan that listen on a port in the arguments.

        Call this just before a program begins. A listener that comes later counts as the step's.

        Raises:
            RuntimeError: a process outside the plan listens on a free port that the step took.
        """
        taken = self._ports.pop(step, set())
        found = strangers_on(taken | ports_in(argv), self._is_ours)
        for one in found:
            if one.port in taken and not (one.pid and descends_from(one.pid, os.getpid())):
                raise RuntimeError(
                    f"{one}, which step {step!r} took as a free port; "
                    f"{Path(argv[0]).name!r} was not started"
                )
        return [one for one in found if one.port in ports_in(argv)]

    def begin_run(self, step: str) -> None:
        """Record that a step runs a program, which may let others listen on its free ports."""
        self._ports.pop(step, None)

    def add_tree(self, step: str, tree: Members, number: int | None) -> None:
        """Add a process tree and its number in the journal; see `record_daemons`."""
        self._trees.setdefault(step, []).append((tree, number))

    def notice(self, step: str) -> None:
        """Let the programs of a step rest that have exited with status 0 while it did not wait."""
        for program in self._programs.get(step, ()):
            program.notice()

    def check_waiting(
        self,
        step: str,
        call: object,
        cause: BaseException | None,
        *,
        now: float,
        provisions: bool,
        is_over: bool,
    ) -> bool:
        """Raise an error if it is pointless to wait, because a program has ended.

        Return whether a server that answers can be the step's own.

        Args:
            step: the step that waits.
            call: the call that waits.
            cause: the last exception of the function that is waited for; None if it raised none.
            now: the time on the plan's clock.
            is_over: whether the function has returned a true value. Then programs may have ended
                whose end the function itself has seen.
            provisions: whether the call belongs to the provisioning of the step. If it does not,
                only programs that the call itself has started count, because cleanup ends others.

        Raises:
            RuntimeError: a program has ended; the message says which one and how.
        """
        for program in self._programs.get(step, ()):
            if is_over and program.process.was_seen_ended:
                program.process.may_end = True
            if (provisions or program.call is call) and program.is_lost(waiting=True):
                raise program.lost(step) from cause
        if provisions:
            self._waited.add(step)
            self._check_needs(step, cause)
        return not provisions or not is_over or self._is_settled(step, now)

    def check_returned(self, step: str, now: float) -> bool:
        """Raise an error if a program has failed by the time that a hook of the step returns.

        Return whether a server that answers can be the step's own. If not, call this again soon.

        Args:
            step: the step.
            now: the time on the plan's clock.

        Raises:
            RuntimeError: a program has ended; the message says which one and how.
        """
        for program in self._programs.get(step, ()):
            if program.is_lost(waiting=False):
                raise program.lost(step)
        if step in self._waited:
            self._check_needs(step, None)
        return self._is_settled(step, now)

    def record_daemons(self, step: str, journal: NullJournal) -> None:
        """Durably record the daemons that programs of the step have left running.

        A later run that reuses the step can then tell whether they are still running.
        """
        for tree, number in self._trees.pop(step, ()):
            if isinstance(tree, Process) and tree.status() != 0:
                continue
            if members := tree.members():
                oldest = min(members, key=lambda member: float(member.birth))
                journal.tree_started(number, oldest.pid)

    def _check_needs(self, step: str, cause: BaseException | None) -> None:
        for need in self._needed(step):
            for program in self._programs.get(need, ()):
                if program.is_lost(waiting=False):
                    raise program.lost_by(need, step) from cause

    def _is_settled(self, step: str, now: float) -> bool:
        return all([program.is_settled(now) for program in self._programs.get(step, ())])

    def _is_ours(self, pid: int) -> bool:
        return pid == os.getpid() or any(marks.are_on(pid) for marks in self._marks)

    def _needed(self, step: str) -> Iterator[str]:
        """Yield the steps that a step needs, directly or not."""
        seen = {step}
        due = list(self.needs.get(step, ()))
        while due:
            need = due.pop(0)
            if need not in seen:
                seen.add(need)
                yield need
                due += self.needs.get(need, ())
