"""Process trees, whose members are found by their marks, session and descent, and ended together.

A tree consists of its first process (the root) and all descendants, the members of its session, and
every process that carries one of its marks. A port, a working directory or an open file is never a
reason to send a signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from pytest_plan.engine.model.clock import Clock, SystemClock
from pytest_plan.engine.processes.identity import (
    Entry,
    Identity,
    boot_id,
    identify,
    newest_pid,
    pids,
    process_table,
)
from pytest_plan.engine.processes.marks import Marks

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL

_FREEZE = getattr(signal, "SIGSTOP", signal.SIGTERM)  # Windows lacks SIGSTOP too
_FREEZE_ROUNDS = 50  # the maximum number of rounds for stopping a tree that keeps forking
_SCANS = 3  # how often the table is read until a tree counts as empty, if the system has no newest
_LOOKS = 30  # the maximum number of looks at the newest processes
_NEWEST = 20  # how many of them are looked at
_APPEARS = 0.001  # seconds until a new process can be seen
_POLL = 0.02  # seconds between two checks whether a tree has ended
_ENDING = 0.2  # how many seconds processes may take to end before they count as left running
_KILL_WAIT = 1.0  # how many seconds killed processes may take to disappear


class Tree(Protocol):
    """The interface of a process tree: `Process`, `Leftovers` or `OrphanTree`."""

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """Ask the tree to end, then kill the processes that are still running.

        Args:
            clock: the clock for the waits.
            number: the signal that asks the tree to end.
            grace: the seconds that the tree may take before it is killed.

        Raises:
            TimeoutError: some processes survived SIGKILL; the message lists them.
        """


class Leftovers:
    """The daemons that ended programs left running. They are found by their marks.

    Args:
        marks: the marks of the programs.
        say: a function to call with the processes that `end` has found, as text.

    Attributes:
        marks: the marks of the programs.
        is_ended: whether `end` was called.
        known: the processes that belong to a known daemon.
    """

    def __init__(self, marks: Marks, say: Callable[[str], None]) -> None:
        self._say = say
        self.marks = marks
        self.is_ended: bool = False
        self.known: set[Identity] = set()

    def members(self) -> list[Identity]:
        """Return the processes that are still running."""
        return tree_members(self.marks)

    def members_beyond(self, before: Collection[int]) -> list[Identity]:
        """Return those that are still running, except processes with the ids `before`.

        This takes much less time than `members`.
        """
        for _ in range(_SCANS):
            new = [identify(pid) for pid in pids().difference(before) if self.marks.are_on(pid)]
            if found := [one for one in new if one.birth]:
                return found
        return []

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """Send `number` to each daemon; after `grace` seconds send SIGKILL to those that remain.

        Raises:
            TimeoutError: some processes survived SIGKILL; the message lists them.
        """
        self.is_ended = True
        found = self.members()
        if found and number != KILL:  # a program that a cleanup has stopped may be about to end
            wait_until(clock, lambda: not self.members(), _ENDING)
            found = self.members()
        if not found:
            return
        self._say(listed(found))
        signal_all(found, number)
        wait_until(clock, lambda: not self.members(), grace)
        kill_all(clock, self.members)
        refuse_survivors(self.members())


def refuse_survivors(left: Sequence[Identity]) -> None:
    """Raise TimeoutError, with the processes in its message, if any is left."""
    if left:
        raise TimeoutError(f"processes survived SIGKILL: {listed(left)}")


def listed(processes: Iterable[Identity]) -> str:
    """Return the programs and pids of processes."""
    return ", ".join(map(str, processes))


def tree_members(
    marks: Marks,
    *,
    root: Identity | None = None,
    session: int | None = None,
    known: Iterable[Identity] = (),
) -> list[Identity]:
    """Return the running processes of a tree.

    Members are the root, the processes that carry a mark, those that are known as members, the
    other processes of the root's session, and all descendants of a member.

    Args:
        marks: the marks of the tree.
        root: the first process, whether or not it is still running; None if it is unknown. Its
            session counts only while another member is in it, because ids of sessions are reused.
        session: the id of a session that is certainly the tree's; None means that there is none.
        known: processes that are known to be members.
    """
    # A process that forks and exits while the table is read can be missed together with its child.
    for _ in range(_SCANS):
        newest = newest_pid()
        if members := _scan(marks, root, session, known):
            return members
        if newest is not None:
            return _newest_members(marks, newest)
    return []


def _newest_members(marks: Marks, since: int) -> list[Identity]:
    """Return a process with one of the marks among those created after the process `since`.

    A process that forks and exits at once is gone before the whole table is read. Therefore, look
    only at what is new, again and again, until no process is created any more.
    """
    for _ in range(_LOOKS):
        newest = newest_pid()
        if newest is None or newest == since:
            return []
        SystemClock.sleep(_APPEARS)
        last = newest_pid() or newest
        oldest = max(since + 1, last - _NEWEST) if since < last else last
        for pid in range(last, oldest - 1, -1):
            if marks.are_on(pid) and (found := identify(pid)).birth:
                return [found]
        since = newest
    return []


def _scan(
    marks: Marks, root: Identity | None, session: int | None, known: Iterable[Identity]
) -> list[Identity]:
    table = process_table()
    found = {pid for pid in table if marks.are_on(pid)}
    found |= {one.pid for one in known if _is_in(table, one)}
    if root is not None:
        found |= {root.pid} if _is_in(table, root) else set()
        if any(table[pid].session == root.pid for pid in found):
            session = root.pid
    if session is not None:
        found |= {pid for pid, entry in table.items() if entry.session == session}
    boot = boot_id()
    return [
        Identity(pid, table[pid].birth, boot) for pid in sorted(_with_descendants(found, table))
    ]


def _is_in(table: Mapping[int, Entry], one: Identity) -> bool:
    return one.pid in table and table[one.pid].birth == one.birth


def _with_descendants(pids: set[int], table: Mapping[int, Entry]) -> set[int]:
    found, new = set(pids), set(pids)
    while new:
        new = {pid for pid, entry in table.items() if entry.parent in new} - found
        found |= new
    return found


def signal_all(processes: Iterable[Identity], number: int) -> None:
    """Send a signal to each process that is still running and that we may signal."""
    for process in processes:
        process.send_signal(number)


def kill_all(clock: Clock, members: Callable[[], list[Identity]]) -> None:
    """Kill a tree, even one that keeps forking.

    This stops processes in rounds until it finds no new one, and then kills all of them. It stops
    the whole group of each process, which may have forked and ended by then.

    Args:
        clock: the clock for the wait until the killed processes disappear.
        members: a function that returns the running processes of the tree.
    """
    frozen: set[int] = set()
    for _ in range(_FREEZE_ROUNDS):
        found = [process for process in members() if process.pid not in frozen]
        if not found:
            break
        for process in found:
            _freeze_group(process)
        signal_all(found, _FREEZE)
        frozen |= {process.pid for process in found}
    signal_all(members(), KILL)
    wait_until(clock, lambda: not members(), _KILL_WAIT)


def _freeze_group(process: Identity) -> None:
    # Its session, and so its group, was created for the program of a step, or by its descendants.
    with contextlib.suppress(AttributeError, ProcessLookupError, PermissionError):
        if process.is_alive() and os.getsid(process.pid) != os.getsid(0):
            os.killpg(os.getpgid(process.pid), _FREEZE)


def wait_until(clock: Clock, done: Callable[[], bool], seconds: float) -> None:
    """Poll `done` until it returns true, for at most `seconds` seconds."""
    condition = threading.Condition()
    deadline = clock.now() + seconds
    while not done() and clock.now() < deadline:
        with condition:
            clock.wait_for(condition, lambda: False, _POLL)
