"""Process trees started by an earlier process, found from records in the journal."""

# Annotations are not postponed: a NamedTuple would compile each of them, in the reaper's program.
from collections.abc import Mapping
from typing import Any, NamedTuple

from pytest_plan.engine.model.clock import Clock
from pytest_plan.engine.processes.identity import Identity, boot_id
from pytest_plan.engine.processes.marks import Marks
from pytest_plan.engine.processes.tree import (
    KILL,
    kill_all,
    refuse_survivors,
    signal_all,
    tree_members,
    wait_until,
)


class OrphanTree(NamedTuple):
    """A process tree started by a process that has ended or by an earlier run.

    Attributes:
        marks: the marks of its members.
        root: the identity of its first process, or of the daemon that the first process left
            behind; None if it was not recorded.
    """

    marks: Marks
    root: Identity | None

    def is_alive(self) -> bool:
        """Whether its first process, or the daemon that it left behind, is still running."""
        return self.root is not None and self.root.is_alive()

    def members(self) -> list[Identity]:
        """Return its running processes. After a reboot there are none."""
        if self.root is not None and self.root.boot != boot_id():
            return []
        return tree_members(self.marks, root=self.root)

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """End the tree as `Process.end` does.

        Args:
            clock: the clock for the waits.
            number: the signal that asks the first process to stop.
            grace: the seconds that it may take before the whole tree is killed.

        Raises:
            TimeoutError: some processes survived SIGKILL; the message lists them.
        """
        if number != KILL and (members := self.members()):
            first = [member for member in members if member == self.root] or members
            signal_all(first, number)
            wait_until(clock, lambda: not any(one.is_alive() for one in first), grace)
            signal_all(self.members(), number)
        kill_all(clock, self.members)
        refuse_survivors(self.members())


class KeptProcess:
    """A program that an earlier run has started, with what `Process` tells about a program.

    Attributes:
        marks: the marks of its tree.
        may_end: whether the step does not need it to run any more.
    """

    def __init__(self, tree: OrphanTree, *, may_end: bool) -> None:
        self._tree = tree
        self.marks = tree.marks
        self.may_end = may_end

    def status(self) -> None:
        """Return None: the exit status of the child of another process is never known."""

    def members(self) -> list[Identity]:
        """Return the running processes of the tree."""
        return self._tree.members()

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """End the tree; see `OrphanTree.end`."""
        self.may_end = True
        self._tree.end(clock, number, grace)


def orphan_tree(how: Mapping[str, Any]) -> OrphanTree:
    """Return the tree that an undo of the kind `tree` describes in the journal."""
    root = Identity(how["pid"], how["birth"], how["boot"]) if "pid" in how else None
    return OrphanTree(Marks(how["cookie"], how.get("number")), root)
