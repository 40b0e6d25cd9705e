"""The undo stack of a step. Undos run in reverse order of registration."""

from __future__ import annotations

from typing import NamedTuple

from pytest_plan.engine.calls.body import Body
from pytest_plan.engine.calls.call import CallScope
from pytest_plan.engine.calls.loop import StepLoop
from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.processes.tree import Tree
from pytest_plan.engine.shared.log import StepLog


class Undo(NamedTuple):
    """One thing to undo. It belongs to the hook that registered it.

    Attributes:
        hook: the hook whose call registered it.
        label: the description that reports show after `not undone: `.
        body: the body that performs the undo.
        scope: the scope of the call that registered it.
        tree: the process tree that the undo ends; None for every other undo.
        number: its number in the journal; None if the journal has no record of it.
    """

    hook: Hook
    label: str
    body: Body
    scope: CallScope
    tree: Tree | None = None
    number: int | None = None


class UndoStack:
    """The undos of one step, with the last one registered on top.

    Attributes:
        loop: the event loop of the step, in which its async undos run.
        ended: the processes that cleanup has found running after their programs, as text.
        is_closed: whether the step's cleanup has ended, so that hooks can register nothing more.
    """

    __slots__ = ("_entries", "ended", "is_closed", "loop")

    def __init__(self, loop: StepLoop) -> None:
        self.loop = loop
        # The list needs no lock. Any thread may append, but only the flow of the step removes
        # entries, one at a time, and appending does not change the index of an entry.
        self._entries: list[Undo] = []
        self.is_closed = False
        self.ended: tuple[str, ...] = ()

    def push(self, entry: Undo) -> None:
        """Register an undo, which will run before all earlier ones."""
        self._entries.append(entry)

    def register(self, entry: Undo) -> None:
        """Register an undo for a hook, on any thread.

        Raises:
            PlanError: the step's cleanup has ended; the undo was performed at once.
        """
        self.push(entry)
        if not self.is_closed:
            return
        try:
            self._entries.remove(entry)
        except ValueError:
            return  # the cleanup was just ending, and has taken the entry
        entry.body.perform(entry.scope.interrupt)
        self.admit(entry.scope)

    def admit(self, scope: CallScope) -> None:
        """Raise PlanError if the call was abandoned, or if the step's cleanup has ended."""
        scope.admit()
        if self.is_closed:
            raise PlanError(
                f"step {scope.step!r} has been cleaned up, so nothing that it starts, sets or "
                "defers now would be undone"
            )

    def found(self, log: StepLog, processes: str) -> None:
        """Record processes that programs have left running, just before they are ended."""
        log.write(f"ending processes that were left running: {processes}\n")
        self.ended = (*self.ended, processes)

    def push_tail(self, body: Body, scope: CallScope, number: int | None) -> None:
        """Register the code after the `yield` of `exec`."""
        self.push(Undo(Hook.EXEC, "code after its yield", body, scope, number=number))

    def pop(self, hooks: frozenset[Hook]) -> Undo | None:
        """Remove and return the last undo registered by one of `hooks`; None if there is none."""
        for index in range(len(self._entries) - 1, -1, -1):
            if self._entries[index].hook in hooks:
                return self._entries.pop(index)
        return None

    def __len__(self) -> int:
        return len(self._entries)
