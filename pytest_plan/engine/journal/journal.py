"""The journal of an environment: what it records, and when.

The journal is write-ahead: if a later process must know about an event, the record is on disk
before the event happens. All other records are written with the next such record, or soon after.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.journal.codec import Codec
from pytest_plan.engine.journal.null import Deferred, NullJournal
from pytest_plan.engine.journal.reference import NotDurableError, References
from pytest_plan.engine.journal.schema import create, insert, reopen, replace, update
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.journal.writing.place import Place
from pytest_plan.engine.journal.writing.transaction import Statement
from pytest_plan.engine.journal.writing.values import Snapshot, StateValues
from pytest_plan.engine.journal.writing.writer import Writer
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.outcomes import EXEC_HOOKS, CleanupOutcome, Hook, StepOutcome
from pytest_plan.engine.processes.identity import identify

PARAMETER = "parameter of "  # begins the name of the fact that is the parameter of an instance
_FACT = replace("environment")
_BEGUN = replace("step")
_ENDED = update("step", "name = ?4", outcome="?1", completed="?2", log_tail="?3")
_CLEANUP_BEGUN = update("step", "name = ?1", cleanup="'pending'", owners="owners + 1")
_HOOK_DONE = update("step", "name = ?1", hook_done="1")
_CLEANUP_ENDED = update(
    "step", "name = ?3", cleanup="?1", hook_done="max(hook_done, ?2)", cleanup_error="?4"
)
_UNDO = insert("undo")
_TREE_CHANGED = update("undo", "number = ?2", data="json_patch(data, ?1)")
_UNDONE = update("undo", "number = ?1", done="1")


class Journal(NullJournal):
    """The journal of one environment.

    Args:
        file: the database file. It is created if it is missing, but its folder must exist.
        references: the references to functions and classes.
        fingerprint: a function that takes the name of a step and returns its fingerprint.
        key: the key that seals its rows; None means the key of this user.
        place: repairs the place of the journal if it is lost; None means that a lost journal is an
            error.
        outlives: whether a later run may use the steps again. A journal that is continued counts
            as one of them.

    Raises:
        JournalError: the file cannot be created or opened, or is not a journal.
    """

    def __init__(
        self,
        file: Path,
        references: References,
        fingerprint: Callable[[str], str] = lambda step: "",
        key: Key | None = None,
        place: Place | None = None,
        *,
        outlives: bool = False,
    ) -> None:
        self.file = file
        self._references = references
        self._mask: Callable[[str], str] = str
        self._codec = Codec(references, lambda text: self._mask(text) != text)
        self._fingerprint = fingerprint
        is_new = not file.exists()
        self._outlives = outlives or not is_new
        # The steps of which another process could call anything: a `cleanup` hook, or an undo.
        self._with_calls: set[str] = set()
        key = key or Key.of(os.environ)
        seal, number = (create(file, key), 0) if is_new else reopen(file, key)
        self._numbers = itertools.count(number + 1)
        try:
            self._writer = Writer(file, seal, place)
        except JournalError:
            if is_new:
                file.unlink()
            raise
        self._values = StateValues(self._codec, self._writer, wants_all=self._outlives)

    @property
    def failure(self) -> JournalError | None:
        """The error after which nothing more is written; None while the journal works."""
        return self._writer.failure

    def mask_with(self, mask: Callable[[str], str]) -> None:
        """Never write text that contains a secret, which `mask` would replace."""
        self._mask = mask

    def mirror_to(self, receive: Callable[[Sequence[Statement]], None]) -> None:
        """Pass all further statements on, in their order, before a durable record returns.

        From now on, the journal is one of an environment that outlives the run.

        Args:
            receive: a function that gets the statements of each transaction once they are on disk.
        """
        self._outlives = True
        self._writer.mirror = receive
        self._values.want_all()

    def set(self, **values: Any) -> None:
        """Durably record facts about the environment; each value must be plain JSON."""
        self._writer.durably(_header(values))

    def flush(self) -> None:
        """Wait until all records so far are on disk; raise JournalError if that fails."""
        self._writer.durably([])

    def before(self, step: PlannedStep) -> Callable[[], None]:
        """Return the function to call before any user code of the step runs."""
        return lambda: self.step_begun(step)

    def step_begun(self, step: PlannedStep) -> None:
        """Record that user code of the step may run from now on.

        The record is durable if there is something to do or to report should this process be killed
        in the step: it has a `cleanup` hook, or is a generator. The record of any other step is on
        the disk with the first thing that must be undone.

        Raises:
            JournalError: nothing can be written, so nothing to undo could be recorded.
        """
        self._values.want(step)
        statements = [self._begun(step), *self._parameter(step)]
        if self._outlives or Hook.CLEANUP in step.hooks or step.is_generator:
            self._writer.durably(statements)
        elif self._writer.failure is not None:
            raise self._writer.failure
        else:
            self._writer.note(lambda: statements)

    def ends_durably(self, step: PlannedStep) -> bool:
        """Return whether the `cleanup` hook takes the value or the State, which must be durable."""
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
        """Record how the step ended, durably if `ends_durably(step)` is true."""
        ended: Statement = (_ENDED, (outcome.value, completed, log_tail, step.name))
        # A step without exec hooks has run no code that would have recorded its beginning.
        is_new = has_begun and not step.hooks.keys() & set(EXEC_HOOKS)
        if is_new:
            self._values.want(step)
        statements = [self._begun(step), *self._parameter(step), ended] if is_new else [ended]
        if not self.ends_durably(step):
            self._writer.note(lambda: statements)
            return
        # The arguments of the `cleanup` hook must be on disk before another step uses this one.
        with contextlib.suppress(JournalError):
            self._writer.durably(statements)

    def cleanup_begun(self, step: str) -> None:
        """Record that one more owner is cleaning up the step; ignore errors.

        The record is durable if another process could call the `cleanup` hook or a deferred call of
        the step, because at most three owners may do so.

        Raises:
            PlanError: the guard has refused it.
        """
        if self.guard is not None:
            self.guard(step)
        if not self._outlives and step not in self._with_calls:
            self._note(_CLEANUP_BEGUN, (step,))
            return
        with contextlib.suppress(JournalError):  # cleanup also runs when the disk fails
            self._writer.durably([(_CLEANUP_BEGUN, (step,))])

    def cleanup_ended(
        self, step: str, outcome: CleanupOutcome, *, hook_is_done: bool, error: str = ""
    ) -> None:
        """Record how the cleanup of the step ended, and whether its `cleanup` hook succeeded."""
        self._note(_CLEANUP_ENDED, (outcome.value, hook_is_done, step, self._mask(error)))

    def hook_done(self, step: str) -> None:
        """Record that the `cleanup` hook succeeded although other undos of the step remain."""
        self._note(_HOOK_DONE, (step,))

    def deferred(self, step: str, hook: Hook, label: str, call: Deferred) -> int | None:
        """Durably record a deferred call, and return its number.

        If no later process could make the call, it is recorded as lost, with the reason.
        """
        try:
            reference = self._references.of(call.function)
            given = self._codec.encode([list(call.arguments), dict(call.keywords)])
        except NotDurableError as error:
            return self._undo(step, hook, label, "lost", str(error))
        self._with_calls.add(step)
        data = [[reference.module, reference.qualname, reference.file], given]
        return self._undo(step, hook, label, "call", json.dumps(data))

    def tree_planned(
        self,
        step: str,
        hook: Hook,
        label: str,
        how: Mapping[str, Any],
        start: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Durably record that a process tree is about to start, and return its number.

        Args:
            step: the step that starts it.
            hook: its hook.
            label: its name in reports.
            how: how to find and end it, as plain JSON.
            start: how a later run can start it again; None means that it cannot. It is left out,
                with the reason, if it contains a secret or cannot be written.
        """
        data = {**how}
        if "program" in how:
            data["program"] = self._mask(how["program"])
        if start is not None:
            try:
                data["start"] = self._codec.encode(start)
            except NotDurableError as error:
                data["unrecorded"] = str(error)
        return self._undo(step, hook, label, "tree", json.dumps(data))

    def tree_started(self, number: int | None, pid: int, **how: Any) -> None:
        """Durably record the first process of a tree, because it may soon overwrite its cookie.

        Args:
            number: the number of the tree.
            pid: the id of the process.
            how: what else has changed; see `tree_planned`.
        """
        changes = json.dumps({**identify(pid)._asdict(), **how})
        self._writer.durably([(_TREE_CHANGED, (changes, number))])

    def tree_may_end(self, number: int | None) -> None:
        """Record that a tree need not run any more: a reused step is alive without it."""
        self._note(_TREE_CHANGED, (json.dumps({"watch": False}), number))

    def tail_made(self, step: str) -> int | None:
        """Record that a generator has yielded, and return the number of its tail.

        Only this process can run the tail.
        """
        number = next(self._numbers)
        row = (number, step, Hook.EXEC.value, "code after its yield", "tail", "", 0)
        self._note(_UNDO, row)
        return number

    def variable_set(self, step: str, hook: Hook, name: str, value: str) -> int | None:
        """Durably record an environment variable, and return its number.

        If the value contains a secret, it is left out.
        """
        is_secret = self._mask(value) != value
        data = json.dumps([name, None if is_secret else value])
        return self._undo(step, hook, f"environment variable {name}", "variable", data)

    def scratch(self, folder: Path) -> None:
        """Durably record the temporary folder that the run is about to create."""
        self.set(scratch=str(folder))

    def forget(self, steps: Iterable[str]) -> None:
        """Remove all records of these steps, and the keys of the State that they have written."""
        steps = list(steps)
        columns = (("step", "name"), ("undo", "step"), ("state", "key"), ("state", "writer"))
        statements = [
            (f"DELETE FROM {table} WHERE {column} = ?", (step,))  # noqa: S608 - ours
            for step in steps
            for table, column in columns
        ]
        facts = "DELETE FROM environment WHERE key = ?"
        statements += [(facts, (f"{PARAMETER}{step}",)) for step in steps]
        self._writer.note(lambda: statements)

    def undone(self, number: int | None) -> None:
        """Record that the entry with this number has been undone; do nothing if it is None."""
        if number is not None:
            self._note(_UNDONE, (number,))

    def lasting(self, value: Any) -> Snapshot:
        """Return a snapshot of a value. Later changes to the value do not affect the snapshot."""
        return self._values.snapshot(value)

    def state_set(self, key: str, lasting: Snapshot, writer: str | None = None) -> None:
        """Record the value of a key of the State, above the values of other steps.

        It is written once a later process could read it, and encoded then if it cannot change.

        Args:
            key: the key.
            lasting: the snapshot of the value, or a function that returns it.
            writer: the step that has written the value; None means a test.
        """
        self._values.set(key, lasting, writer)

    def state_removed(self, key: str) -> None:
        """Record that a key was removed from the State."""
        self._values.remove(key)

    def close(self) -> None:
        """Write everything recorded so far, and close the file."""
        self._writer.close()

    def _parameter(self, step: PlannedStep) -> Iterable[Statement]:
        """Return what records the parameter of an instance, for its `cleanup` hook."""
        if step.param is None:
            return ()
        with contextlib.suppress(NotDurableError):
            return _header({f"{PARAMETER}{step.name}": self._codec.encode(step.param)})
        return ()

    def _begun(self, step: PlannedStep) -> Statement:
        if Hook.CLEANUP in step.hooks:
            self._with_calls.add(step.name)
        return (
            _BEGUN,
            (
                step.name,
                step.folder,
                next(self._numbers),
                json.dumps(step.needs),
                json.dumps(step.after),
                (Hook.CLEANUP in step.hooks) + _takes(step, "value"),
                step.options.cleanup_when,
                self._cleanup_function(step),
                self._fingerprint(step.name),
                StepOutcome.RUNNING.value,
                0,
                "",
                CleanupOutcome.NONE.value,
                "",
                0,
                0,
            ),
        )

    def _cleanup_function(self, step: PlannedStep) -> str:
        """Return the reference to the `cleanup` hook as JSON; "" if it cannot be found by name."""
        hook = step.hooks.get(Hook.CLEANUP)
        if hook is not None:
            with contextlib.suppress(NotDurableError):
                return json.dumps(self._references.of(hook.function))
        return ""

    def _undo(self, step: str, hook: Hook, label: str, kind: str, data: str) -> int | None:
        number = next(self._numbers)
        row = (number, step, hook.value, self._mask(label), kind, data, 0)
        self._writer.durably([(_UNDO, row)])
        return number

    def _note(self, sql: str, values: Sequence[Any]) -> None:
        self._writer.note(lambda: [(sql, values)])


def _takes(step: PlannedStep, *names: str) -> bool:
    hook = step.hooks.get(Hook.CLEANUP)
    return hook is not None and not set(names).isdisjoint(hook.required)


def _header(values: Mapping[str, Any]) -> list[Statement]:
    return [(_FACT, (key, json.dumps(value))) for key, value in values.items()]
