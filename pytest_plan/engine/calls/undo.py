"""What a step must take back, last made first."""

from __future__ import annotations

from typing import NamedTuple

from pytest_plan.engine.calls.body import Body
from pytest_plan.engine.calls.call import CallScope
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.processes.tree import Tree


class Undo(NamedTuple):
    """One thing to take back; it belongs to the hook that made it.

    Attributes:
        hook: the hook whose call registered it.
        label: names it in reports.
        body: takes it back.
        scope: the scope of the call that registered it.
        tree: the process tree that this ends, None for everything else.
        number: names it in the journal; None where there is none.
    """

    hook: Hook
    label: str
    body: Body
    scope: CallScope
    tree: Tree | None = None
    number: int | None = None


class UndoStack:
    """The undos of one step."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        # Needs no lock: any thread appends, only the flow of the step pops, one at a time, and
        # what it found stays at its index whatever is appended meanwhile.
        self._entries: list[Undo] = []

    def push(self, entry: Undo) -> None:
        """Register an undo; it will be the first to run."""
        self._entries.append(entry)

    def push_tail(self, body: Body, scope: CallScope, number: int | None) -> None:
        """Register what follows the `yield` of `exec`."""
        self.push(Undo(Hook.EXEC, "what follows its yield", body, scope, number=number))

    def pop(self, hooks: frozenset[Hook]) -> Undo | None:
        """Return and forget the last undo that one of `hooks` made, None when there is none."""
        for index in range(len(self._entries) - 1, -1, -1):
            if self._entries[index].hook in hooks:
                return self._entries.pop(index)
        return None

    def __len__(self) -> int:
        return len(self._entries)
