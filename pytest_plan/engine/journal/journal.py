"""The durable record of an environment: what is noted of it, and when.

Write-ahead: what a later process must know is on the disk before it is true. What only helps is
written with the next of these, or a moment later.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.journal.codec import Codec
from pytest_plan.engine.journal.null import Deferred, NullJournal
from pytest_plan.engine.journal.reference import NotDurableError, References
from pytest_plan.engine.journal.schema import insert, last_number, make, replace, update
from pytest_plan.engine.journal.writer import Statement, Writer
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.outcomes import EXEC_HOOKS, CleanupOutcome, Hook, StepOutcome
from pytest_plan.engine.processes.identity import identify

_FACT = replace("environment")
_BEGUN = replace("step")
_ENDED = update("step", "name = ?4", outcome="?1", completed="?2", log_tail="?3")
_CLEANUP_BEGUN = update("step", "name = ?1", cleanup="'pending'", owners="owners + 1")
_HOOK_DONE = update("step", "name = ?1", hook_done="1")
_CLEANUP_ENDED = update("step", "name = ?3", cleanup="?1", hook_done="max(hook_done, ?2)")
_UNDO = insert("undo")
_TREE_STARTED = update("undo", "number = ?2", data="json_patch(data, ?1)")
_UNDONE = update("undo", "number = ?1", done="1")
_VALUE = replace("state")


class Lasting(NamedTuple):
    """A value of the State on its way to the disk.

    Attributes:
        text: the value as `Codec` writes it; None when it cannot be.
        lost: why it cannot be written; None when it can.
    """

    text: str | None
    lost: str | None = None


class Journal(NullJournal):
    """The journal of one environment.

    Args:
        file: the database; made when it is missing, in a folder that is there.
        references: how functions and classes are found again.
        fingerprint: returns the fingerprint of a step by its name.

    Raises:
        JournalError: the file cannot be made, or is no journal.
    """

    def __init__(
        self,
        file: Path,
        references: References,
        fingerprint: Callable[[str], str] = lambda step: "",
    ) -> None:
        self.file = file
        self._references = references
        self._mask: Callable[[str], str] = str
        self._codec = Codec(references, lambda text: self._mask(text) != text)
        self._fingerprint = fingerprint
        is_new = not file.exists()
        if is_new:
            make(file)
        self._numbers = itertools.count(1 if is_new else last_number(file) + 1)
        try:
            self._writer = Writer(file)
        except JournalError:
            if is_new:
                file.unlink()
            raise

    @property
    def failure(self) -> JournalError | None:
        """Why nothing can be written any more; None while it can."""
        return self._writer.failure

    def mask_with(self, mask: Callable[[str], str]) -> None:
        """Let nothing be written that `mask`, which replaces secrets, would change."""
        self._mask = mask

    def set(self, **values: Any) -> None:
        """Note facts about the environment, durably; each must be plain JSON."""
        self._writer.durably(_header(values))

    def flush(self) -> None:
        """Return when all that was noted is on the disk; raise JournalError when it cannot be."""
        self._writer.durably([])

    def before(self, step: PlannedStep) -> Callable[[], None]:
        """Return what must be called before user code of the step."""
        return lambda: self.step_begun(step)

    def step_begun(self, step: PlannedStep) -> None:
        """Note, durably, that user code of the step may run from now on."""
        self._writer.durably([self._begun(step)])

    def ends_durably(self, step: PlannedStep) -> bool:
        """Whether `step_ended` waits for the disk: the `cleanup` hook takes the value or State."""
        return _takes(step, "value", "state")

    def step_ended(
        self,
        step: PlannedStep,
        outcome: StepOutcome,
        completed: int,
        log_tail: str,
        *,
        has_begun: bool,
    ) -> None:
        """Record how the step ended; durably if its `cleanup` hook takes its value or the State."""
        ended: Statement = (_ENDED, (outcome.value, completed, log_tail, step.name))
        # One that only cleans up has begun without any code of its own.
        is_new = has_begun and not step.hooks.keys() & set(EXEC_HOOKS)
        statements = [self._begun(step), ended] if is_new else [ended]
        if not self.ends_durably(step):
            self._writer.note(lambda: statements)
            return
        # What its cleanup is made with is on the disk before anybody can rely on the step.
        with contextlib.suppress(JournalError):
            self._writer.durably(statements)

    def cleanup_begun(self, step: str) -> None:
        """Note, durably if that can be, that the step is being cleaned up by one owner more."""
        with contextlib.suppress(JournalError):
            self._writer.durably([(_CLEANUP_BEGUN, (step,))])

    def cleanup_ended(self, step: str, outcome: CleanupOutcome, *, hook_is_done: bool) -> None:
        """Note how the cleanup of the step ended, and whether its hook has succeeded by now."""
        self._note(_CLEANUP_ENDED, (outcome.value, hook_is_done, step))

    def hook_done(self, step: str) -> None:
        """Note that the `cleanup` hook has succeeded, when more is to be taken back."""
        self._note(_HOOK_DONE, (step,))

    def deferred(self, step: str, hook: Hook, label: str, call: Deferred) -> int | None:
        """Note a deferred call, durably; one that no later process could make is noted as lost."""
        try:
            reference = self._references.of(call.function)
            given = self._codec.encode([list(call.arguments), dict(call.keywords)])
        except NotDurableError as error:
            return self._undo(step, hook, label, "lost", str(error))
        data = [[reference.module, reference.qualname, reference.file], given]
        return self._undo(step, hook, label, "call", json.dumps(data))

    def tree_planned(self, step: str, hook: Hook, label: str, how: Mapping[str, Any]) -> int | None:
        """Note a process tree that is about to start, durably; return its number."""
        return self._undo(step, hook, label, "tree", json.dumps(dict(how)))

    def tree_started(self, number: int | None, pid: int) -> None:
        """Note the first process of a tree, durably: it may soon write over its mark."""
        who = identify(pid)
        known = json.dumps({"pid": who.pid, "birth": who.birth, "boot": who.boot})
        self._writer.durably([(_TREE_STARTED, (known, number))])

    def tail_made(self, step: str) -> int | None:
        """Note that a generator has yielded: its tail lives in this process alone."""
        number = next(self._numbers)
        row = (number, step, Hook.EXEC.value, "what follows its yield", "tail", "", 0)
        self._note(_UNDO, row)
        return number

    def variable_set(self, step: str, hook: Hook, name: str, value: str) -> int | None:
        """Note an environment variable; return its number."""
        is_secret = self._mask(value) != value
        data = json.dumps([name, None if is_secret else value])
        return self._undo(step, hook, f"restore ${name}", "variable", data)

    def scratch(self, folder: Path) -> None:
        """Note, durably, the folder that the run makes."""
        self.set(scratch=str(folder))

    def forget(self, steps: Iterable[str]) -> None:
        """Note that nothing of these steps is there any more."""
        columns = (("step", "name"), ("undo", "step"), ("state", "key"))
        statements = [
            (f"DELETE FROM {table} WHERE {column} = ?", (step,))  # noqa: S608 - ours
            for step in steps
            for table, column in columns
        ]
        self._writer.note(lambda: statements)

    def undone(self, number: int | None) -> None:
        """Note that something has been taken back."""
        if number is not None:
            self._note(_UNDONE, (number,))

    def lasting(self, value: Any) -> Lasting:
        """Return the value as it will be written, whatever becomes of it in memory."""
        try:
            return Lasting(self._codec.encode(value))
        except NotDurableError as error:
            return Lasting(None, str(error))

    def state_set(self, key: str, lasting: Lasting | Callable[[], Lasting]) -> None:
        """Note a value of the State; a function is called by the writer."""

        def statements() -> Sequence[Statement]:
            made = lasting() if callable(lasting) else lasting
            return [(_VALUE, (key, made.text, made.lost))]

        self._writer.note(statements)

    def state_removed(self, key: str) -> None:
        """Note that a key is gone."""
        self._note("DELETE FROM state WHERE key = ?", (key,))

    def close(self) -> None:
        """Write what is noted, and let go of the file."""
        self._writer.close()

    def _begun(self, step: PlannedStep) -> Statement:
        return (
            _BEGUN,
            (
                step.name,
                next(self._numbers),
                json.dumps(step.needs),
                json.dumps(step.after),
                (Hook.CLEANUP in step.hooks) + _takes(step, "value"),
                step.options.cleanup_when,
                self._fingerprint(step.name),
                StepOutcome.RUNNING.value,
                0,
                "",
                CleanupOutcome.NONE.value,
                0,
                0,
            ),
        )

    def _undo(self, step: str, hook: Hook, label: str, kind: str, data: str) -> int | None:
        number = next(self._numbers)
        row = (number, step, hook.value, self._mask(label), kind, data, 0)
        self._writer.durably([(_UNDO, row)])
        return number

    def _note(self, sql: str, values: Sequence[Any]) -> None:
        self._writer.note(lambda: [(sql, values)])


def _takes(step: PlannedStep, *names: str) -> bool:
    hook = step.hooks.get(Hook.CLEANUP)
    return hook is not None and not {*hook.required, *hook.optional}.isdisjoint(names)


def _header(values: Mapping[str, Any]) -> list[Statement]:
    return [(_FACT, (key, json.dumps(value))) for key, value in values.items()]
