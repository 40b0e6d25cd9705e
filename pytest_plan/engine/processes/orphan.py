"""Process trees that another process has started, found again by what a journal tells of them."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

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

from collections.abc import Mapping
from typing import Any

_SLACK = 2.0  # seconds that the system's clock may have been set back since


class OrphanTree(NamedTuple):
    """A tree of a process that has ended, or of an earlier run.

    Attributes:
        cookie: what its members carry in their environment.
        since: no member is older, in seconds since the epoch.
        root: its first process; None when it is not known.
    """

    cookie: str
    since: float
    root: Identity | None

    def is_alive(self) -> bool:
        """Whether its first process still runs."""
        return self.root is not None and self.root.is_alive()

    def members(self) -> list[psutil.Process]:
        """Return its living processes; none after a reboot."""
        if self.root is not None and self.root.boot != boot_id():
            return []
        root = self.root.pid if self.root is not None and self.root.is_alive() else None
        found = tree_members(self.cookie, self.since - _SLACK, root=root, session=root)
        if root is None and self.root is not None and self._owns_session(found):
            # The number of a session is nobody else's while one of its members lives.
            session = self.root.pid
            found = tree_members(self.cookie, self.since - _SLACK, session=session)
        return found

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """End the tree as `Process.end` does.

        Raises:
            TimeoutError: something survived even SIGKILL; the message names it.
        """
        if number != KILL and (members := self.members()):
            first = [member for member in members if self._is_root(member.pid)]
            signal_all(first or members, number)
            wait_until(clock, lambda: not self._lives_on(first or members), grace)
            signal_all(self.members(), KILL if number == KILL else number)
        kill_all(clock, self.members)
        if left := [member.pid for member in self.members()]:
            raise TimeoutError(f"processes {left} survived SIGKILL")

    def _is_root(self, pid: int) -> bool:
        return self.root is not None and self.root.pid == pid

    def _lives_on(self, processes: list[psutil.Process]) -> bool:
        pids = {process.pid for process in processes}
        return any(member.pid in pids for member in self.members())

    def _owns_session(self, found: list[psutil.Process]) -> bool:
        assert self.root is not None
        for process in found:
            with contextlib.suppress(OSError):
                if os.getsid(process.pid) == self.root.pid and carries(process, self.cookie):
                    return True
        return False


def orphan_tree(how: Mapping[str, Any]) -> OrphanTree:
    """Return the tree that a journal describes."""
    root = Identity(how["pid"], how["birth"], how["boot"]) if "pid" in how else None
    return OrphanTree(how["cookie"], how["since"], root)
