"""The programs of all steps of a run, and whether those that must keep running still do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pytest_plan.engine.journal.null import NullJournal
from pytest_plan.engine.processes.copies import getpid
from pytest_plan.engine.processes.identity import Identity, pids
from pytest_plan.engine.processes.listeners import (
    Stranger,
    are_in,
    descends_from,
    listening_on,
    ports_in,
    strangers_at,
)
from pytest_plan.engine.processes.marks import Marks
from pytest_plan.engine.processes.process import Process
from pytest_plan.engine.processes.tree import Leftovers
from pytest_plan.engine.shared.log import StepLog
from pytest_plan.engine.shared.programs.watched import Daemon, Watched

if TYPE_CHECKING:
    from pytest_plan.engine.shared.programs.started import Started


class Members(Protocol):
    """A process tree whose running members can be listed."""

    def members(self) -> list[Identity]:
        """Return the running processes of the tree."""


class Before(NamedTuple):
    """What was there before `ctx.run` began a program.

    Attributes:
        step: the step that runs the program.
        left: the processes that programs of the same call have left running.
        pids: the ids of all processes; empty if the system does not list them in `/proc`.
        sockets: the sockets that listened on the ports in the arguments, each with its port.
        at: the time on the plan's clock.
    """

    step: str
    left: Leftovers
    pids: Collection[int]
    sockets: Mapping[int, int]
    at: float


class Programs:
    """The programs of all steps of a run.

    The programs of a step change only on the thread of its call. Other threads only read them.

    Attributes:
        needs: the names of the steps that each step needs.
    """

    def __init__(self) -> None:
        self.needs: dict[str, tuple[str, ...]] = {}
        self._programs: dict[str, list[Watched]] = {}
        self._trees: dict[str, list[tuple[Members, int | None]]] = {}
        self._waited: set[str] = set()
        self._ports: dict[str, set[int]] = {}
        self._marks: list[Marks] = []
        self._on_watch: Callable[[str, Watched], None] | None = None
        self._started: dict[str, list[Started]] = {}

    def watch(self, step: str, watched: Watched) -> None:
        """Let something that a step has started be one of the programs that must keep running."""
        self._programs[step] = [*self._programs.get(step, ()), watched]
        if self._on_watch is not None:
            self._on_watch(step, watched)

    def must_run(self, step: str) -> list[Watched]:
        """Return what must keep running while tests use the step, which has succeeded."""
        return [one for one in self._programs.get(step, ()) if self._must_run(step, one)]

    def tell(self, on_watch: Callable[[str, Watched], None] | None) -> None:
        """Call a function, on any thread, with each program that is watched from now on.

        Args:
            on_watch: the function, which gets the step and the program; None means none.
        """
        self._on_watch = on_watch

    def needed(self, step: str) -> Iterator[str]:
        """Yield the steps that a step needs, directly or not."""
        seen = {step}
        due = list(self.needs.get(step, ()))
        while due:
            need = due.pop(0)
            if need not in seen:
                seen.add(need)
                yield need
                due += self.needs.get(need, ())

    def own(self, marks: Marks) -> Marks:
        """Let processes with these marks count as programs of the plan; return the marks."""
        self._marks.append(marks)
        return marks

    def took(self, step: str, port: int) -> int:
        """Record that a step took a free port, and return the port."""
        self._ports.setdefault(step, set()).add(port)
        return port

    def taken(self, ports: Collection[int]) -> list[Stranger]:
        """Return the processes outside the plan that listen on one of `ports`."""
        return strangers_at(listening_on(ports), self._is_ours)

    def add_started(self, step: str, started: Started) -> None:
        """Add a program that a step has started and that a test may start again."""
        self._started.setdefault(step, []).append(started)

    def started(self, step: str) -> list[Started]:
        """Return the programs that a step has started and that no cleanup has ended."""
        return [one for one in self._started.get(step, ()) if not one.is_over]

    def stopped(self) -> list[tuple[str, Started]]:
        """Return the programs that tests have stopped, each with its step."""
        return [(step, one) for step in self._started for one in self.started(step)
                if one.is_stopped]  # fmt: skip

    def concern(self, step: str) -> bool:
        """Return whether there is anything to check when a hook of the step returns."""
        return step in self._programs or step in self._trees or step in self._waited

    def strangers(self, step: str, argv: Sequence[str]) -> list[Stranger]:
        """Return the processes outside the plan that listen on a port in the arguments.

        Call this just before `ctx.start` begins a program. A listener that comes later counts as
        the step's.

        Raises:
            RuntimeError: a process outside the plan listens on a free port that the step took.
        """
        self._refuse_strangers(step, argv, self._ports.pop(step, set()))
        return strangers_at(listening_on(ports_in(argv)), self._is_ours)

    def before_run(
        self, step: str, argv: Sequence[str], left: Leftovers, now: float, *, provisions: bool
    ) -> Before:
        """Return what is there before `ctx.run` begins a program; then pass it to `after_run`.

        The program may let others listen on the free ports of the step. For a port that is not in
        the arguments, these cannot be told from strangers.

        Args:
            step: the step.
            argv: the program and its arguments.
            left: the processes that programs of the same call have left running.
            now: the time on the plan's clock.
            provisions: whether the call belongs to the provisioning of the step.

        Raises:
            RuntimeError: a process outside the plan listens on a free port that the step took and
                that is in the arguments.
        """
        if provisions:
            self._refuse_strangers(step, argv, are_in(self._ports.pop(step, set()), argv))
        self.notice(step)  # the processes of earlier daemons must not be taken for those of this
        is_watched = sys.platform == "linux"  # elsewhere, this would take too long
        known = pids() if is_watched else frozenset()
        return Before(step, left, known, listening_on(ports_in(argv)), now)

    def after_run(
        self, before: Before, process: Process, log: StepLog, call: object, now: float
    ) -> None:
        """Watch the daemon that a program of `ctx.run` has left running, if any.

        Args:
            before: what was there before the program began.
            process: the program, which has ended.
            log: the log of the step.
            call: the identity of the call.
            now: the time on the plan's clock.
        """
        for program in self._programs.get(before.step, ()):
            program.notice(is_run_over=True)
        if not before.pids:
            return
        found = before.left.members_beyond(before.pids)
        if new := [one for one in found if one not in before.left.known]:
            strangers = strangers_at(before.sockets, self._is_ours)
            daemon = Daemon(process, new, before.left, log, call, strangers=strangers,
                            began=before.at, now=now)  # fmt: skip
            self.watch(before.step, daemon)

    def add_tree(self, step: str, tree: Members, number: int | None) -> None:
        """Add a process tree and its number in the journal; see `record_daemons`."""
        self._trees.setdefault(step, []).append((tree, number))

    def notice(self, step: str) -> None:
        """Let the programs of a step rest that have exited with status 0 while it did not wait."""
        for program in self._programs.get(step, ()):
            program.notice(is_run_over=False)

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
            if is_over:
                program.was_answered()
            if (provisions or program.call is call) and program.is_lost(now, waiting=True):
                raise program.lost(step) from cause
        if provisions:
            self._waited.add(step)
            self._check_needs(step, cause, now)
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
            if not program.has_status:
                program.notice(is_run_over=False)
            # Only a step that waits relies on a daemon, whose status is unknown.
            counts = program.has_status or step in self._waited
            if counts and program.is_lost(now, waiting=False):
                raise program.lost(step)
            if program.has_status:
                program.notice(is_run_over=False)  # if it has ended with 0, it was meant to end
        if step in self._waited:
            self._check_needs(step, None, now)
        return self._is_settled(step, now)

    def record_daemons(self, step: str, journal: NullJournal) -> None:
        """Durably record the daemons that programs of the step have left running.

        A later run that reuses the step can then tell whether they are still running, and that
        programs that were meant to end need not.
        """
        for tree, number in self._trees.pop(step, ()):
            if isinstance(tree, Process) and tree.status() is None:
                continue
            if members := tree.members():
                oldest = min(members, key=lambda member: float(member.birth))
                journal.tree_started(number, oldest.pid)
            elif isinstance(tree, Process) and (tree.may_end or tree.status() == 0):
                journal.tree_may_end(number)

    def _refuse_strangers(self, step: str, argv: Sequence[str], ports: Collection[int]) -> None:
        for one in strangers_at(listening_on(ports), self._is_ours):
            if not (one.pid and descends_from(one.pid, getpid())):
                raise RuntimeError(
                    f"{one}, which step {step!r} took as a free port; "
                    f"{os.path.basename(argv[0])!r} was not started"
                )

    def _check_needs(self, step: str, cause: BaseException | None, now: float) -> None:
        for need in self.needed(step):
            for program in self._programs.get(need, ()):
                if program.is_lost(now, waiting=False):
                    raise program.lost_by(need, step) from cause

    def _must_run(self, step: str, program: Watched) -> bool:
        # Only a step that waits relies on a daemon, whose status is unknown.
        counts = program.has_status or program.is_kept or step in self._waited
        return counts and not program.may_end()

    def _is_settled(self, step: str, now: float) -> bool:
        return all([program.is_settled(step, now) for program in self._programs.get(step, ())])

    def _is_ours(self, pid: int) -> bool:
        return pid == getpid() or any(marks.are_on(pid) for marks in self._marks)
