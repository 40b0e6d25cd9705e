"""Process trees started by an earlier process, found from records in the journal."""

# Annotations are not postponed: a NamedTuple would compile each of them, in the reaper's program.
import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_plan.engine.model.clock import Clock
from pytest_plan.engine.processes.identity import Identity, boot_id
from pytest_plan.engine.processes.tree import (
    KILL,
    carries,
    kill_all,
    signal_all,
    tree_members,
    wait_until,
)

if TYPE_CHECKING:
    import psutil

_CLOCK_SLACK = 2.0  # how many seconds the system clock may have been set back


class OrphanTree(NamedTuple):
    """A process tree started by a process that has ended or by an earlier run.

    Attributes:
        cookie: the value of `COOKIE` in the environment of its members.
        since: the earliest start time of a member, in seconds since the epoch.
        root: the identity of its first process; None if it was not recorded.
    """

    cookie: str
    since: float
    root: Identity | None

    def is_alive(self) -> bool:
        """Whether its first process is still running."""
        return self.root is not None and self.root.is_alive()

    def members(self) -> "list[psutil.Process]":
        """Return its running processes. After a reboot there are none."""
        if self.root is not None and self.root.boot != boot_id():
            return []
        root = self.root.pid if self.root is not None and self.root.is_alive() else None
        found = tree_members(self.cookie, self.since - _CLOCK_SLACK, root=root, session=root)
        if root is None and self.root is not None and self._owns_session(found):
            # The system does not reuse a session id while a member of the session is running.
            session = self.root.pid
            found = tree_members(self.cookie, self.since - _CLOCK_SLACK, session=session)
        return found

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """End the tree as `Process.end` does.

        Args:
            clock: the clock for the waits.
            number: the signal that asks the first process to stop.
            grace: the seconds that it may take before the whole tree is killed.

        Raises:
            TimeoutError: some processes survived SIGKILL; the message lists their pids.
        """
        if number != KILL and (members := self.members()):
            first = [member for member in members if self._is_root(member.pid)]
            signal_all(first or members, number)
            wait_until(clock, lambda: not self._any_running(first or members), grace)
            signal_all(self.members(), number)
        kill_all(clock, self.members)
        if left := [member.pid for member in self.members()]:
            raise TimeoutError(f"processes {left} survived SIGKILL")

    def _is_root(self, pid: int) -> bool:
        return self.root is not None and self.root.pid == pid

    def _any_running(self, processes: "list[psutil.Process]") -> bool:
        pids = {process.pid for process in processes}
        return any(member.pid in pids for member in self.members())

    def _owns_session(self, found: "list[psutil.Process]") -> bool:
        assert self.root is not None
        for process in found:
            with contextlib.suppress(OSError):
                if os.getsid(process.pid) == self.root.pid and carries(process, self.cookie):
                    return True
        return False


def orphan_tree(how: Mapping[str, Any]) -> OrphanTree:
    """Return the tree that an undo of the kind `tree` describes in the journal."""
    root = Identity(how["pid"], how["birth"], how["boot"]) if "pid" in how else None
    return OrphanTree(how["cookie"], how["since"], root)
