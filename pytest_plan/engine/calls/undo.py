"""The undo stack of a step. Undos run in reverse order of registration."""

# Annotations are not postponed: a NamedTuple would compile each of them.
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from pytest_plan.engine.calls.body import Body, body_of, deferred_body
from pytest_plan.engine.calls.call import CallScope
from pytest_plan.engine.calls.loop import StepLoop
from pytest_plan.engine.calls.stopping.interrupt import Interrupt
from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.processes.marks import new_marks
from pytest_plan.engine.processes.tree import Leftovers, Tree
from pytest_plan.engine.shared.log import StepLog, current_log
from pytest_plan.engine.shared.programs.checks import Check
from pytest_plan.engine.shared.programs.programs import Before
from pytest_plan.engine.shared.run_facts import RunFacts

_LEFT = "processes that its programs left running"
_GRACE = 2.0  # seconds between SIGTERM and SIGKILL for these processes


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

    def remove(self, tree: Tree) -> None:
        """Remove the undo of a process tree that has been ended."""
        for entry in [entry for entry in self._entries if entry.tree is tree]:
            self._entries.remove(entry)

    def __len__(self) -> int:
        return len(self._entries)


def before_run(
    scope: CallScope, facts: RunFacts, undo: UndoStack, log: StepLog, argv: Sequence[str]
) -> Before:
    """Plan to end the daemons of a program; return what is there before `ctx.run` begins it."""
    programs, number = facts.programs, int(signal.SIGTERM)
    if (left := scope.left) is None:
        left = Leftovers(programs.own(new_marks()), partial(undo.found, log))
        how = {**left.marks._asdict(), "signal": number, "grace": _GRACE, "watch": True}
        tree = facts.journal.tree_planned(scope.step, scope.hook, _LEFT, how)
        body = body_of(left.end, facts.clock, number, _GRACE)
        undo.register(Undo(scope.hook, _LEFT, body, scope, left, tree))
        programs.add_tree(scope.step, left, tree)
        scope.left = left
    now = facts.clock.now()
    return programs.before_run(scope.step, argv, left, now, provisions=scope.provisions)


def add_check(
    scope: CallScope,
    facts: RunFacts,
    undo: UndoStack,
    log: StepLog,
    *,
    check: Callable[[], object],
    every: float,
) -> None:
    """Let `ctx.watch` add a check, and remove it when what the hook has done is undone."""
    undo.admit(scope)
    if not callable(check):
        raise TypeError(f"ctx.watch takes a function, not {check!r}")
    name = getattr(check, "__name__", None) or repr(check)

    def call() -> object:
        current_log.set(log)
        return deferred_body(undo.loop, facts.clock, check).perform(Interrupt())

    added = Check(scope.step, name, call, every)
    facts.checks.add(added)
    body = body_of(facts.checks.remove, added)
    undo.register(Undo(scope.hook, f"check {name}", body, scope))
