"""Reads a whole journal and checks it. The reader runs no code that the journal refers to."""

# Annotations are not postponed: a NamedTuple would compile each of them, in the reaper's program.
import contextlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytest_plan.engine.journal.schema import APPLICATION, FORMAT, check_seals
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.outcomes import CleanupOutcome, Hook, StepOutcome
from pytest_plan.engine.processes.identity import Identity

MOST_OWNERS = 3  # maximum number of processes that try to clean up a step


class RecordedUndo(NamedTuple):
    """An undo, as recorded in the journal.

    Attributes:
        number: identifier of the entry in the journal.
        step: name of the step that it belongs to.
        hook: the hook that registered it.
        label: the description shown in reports.
        kind: `call`, `tree`, `variable`, `tail` or `lost`.
        data: the data that a later process needs to perform the undo; for `lost`, the reason why
            no later process can perform it.
    """

    number: int
    step: str
    hook: Hook
    label: str
    kind: str
    data: str


class RecordedStep(NamedTuple):
    """A step that has begun, as recorded in the journal.

    Attributes:
        name: name of the step.
        needs: names of the steps that it needs.
        after: names of the steps that it is ordered after.
        has_cleanup_hook: whether it has a `cleanup` hook with something to do.
        cleanup_when: its option `cleanup_when`.
        fingerprint: the fingerprint of its code and options at the time of the run.
        outcome: the last recorded status of the step.
        completed: its position in the order of completion, counted from 1; 0 if it has not ended.
        cleanup: the last recorded status of its cleanup.
        hook_done: whether its `cleanup` hook has succeeded.
        owners: the number of processes that have begun to clean it up.
        undos: the undos that have not been performed yet, in order of registration.
    """

    name: str
    needs: tuple[str, ...]
    after: tuple[str, ...]
    has_cleanup_hook: bool
    cleanup_when: str
    fingerprint: str
    outcome: str
    completed: int
    cleanup: str
    hook_done: bool
    owners: int
    undos: tuple[RecordedUndo, ...]

    @property
    def hook_is_due(self) -> bool:
        """Whether its `cleanup` hook must run. A step with no recorded end may have succeeded."""
        if not self.has_cleanup_hook or self.hook_done:
            return False
        return self.cleanup_when == "attempted" or self.outcome in (
            "succeeded",
            "reused",
            "running",
        )

    @property
    def needs_cleanup(self) -> bool:
        """Whether anything of the step is left to clean up."""
        return self.hook_is_due or any(undo.kind != "variable" for undo in self.undos)

    @property
    def can_be_cleaned(self) -> bool:
        """Whether another process could clean up any of what is left."""
        return self.hook_is_due or any(undo.kind in ("call", "tree") for undo in self.undos)


class Recorded(NamedTuple):
    """An environment, as recorded in its journal.

    Attributes:
        file: the journal.
        facts: facts about the environment that its owners recorded.
        steps: the steps that have begun, by name, in the order in which they began.
        state: the encoded value of each key; None if it could not be written.
        lost: the reasons why values could not be written, by key.
    """

    file: Path
    facts: Mapping[str, Any]
    steps: Mapping[str, RecordedStep]
    state: Mapping[str, str | None]
    lost: Mapping[str, str]

    @property
    def owner(self) -> Identity | None:
        """The process that last opened its journal; None if no owner was recorded."""
        owner = self.facts.get("owner")
        return None if owner is None else Identity(**owner)

    @property
    def is_kept(self) -> bool:
        """Whether the environment was kept on purpose."""
        return self.facts.get("status") == "kept"

    def due(self) -> list[RecordedStep]:
        """Return the steps that still need cleanup."""
        return [step for step in self.steps.values() if step.needs_cleanup]

    def exhausted(self) -> bool:
        """Return whether `MOST_OWNERS` processes have tried to clean up every step that is due."""
        due = self.due()
        return bool(due) and all(step.owners >= MOST_OWNERS for step in due)


def read(file: Path) -> Recorded:
    """Read a journal and check it. This does not change the file.

    Raises:
        JournalError: the file is not a journal, is damaged, or has another format.
    """
    try:
        # Open the file read-only, to avoid changing a damaged file or creating a missing one.
        where = f"{file.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(where, uri=True, timeout=5.0)) as connection:
            _check(connection, file)
            return _recorded(connection, file)
    except (
        sqlite3.Error,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise JournalError(
            f"cannot read the journal {file} ({error}); it is left unchanged and nothing in it is "
            "cleaned up; make sure that nothing is left of its environment, then remove its folder"
        ) from error


def _check(connection: sqlite3.Connection, file: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION:
        raise ValueError("it was not created by pytest-plan")
    if version != FORMAT:
        raise JournalError(
            f"the journal {file} has format {version}, but this version of pytest-plan reads "
            f"format {FORMAT}; it is left unchanged; clean it up with the version that wrote it"
        )
    # This also checks indexes, because an update cannot find a row that an index lacks.
    problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if problem != "ok":
        raise ValueError(problem)
    check_seals(connection)


def _check_undo(kind: str, data: str) -> None:
    if kind in ("tail", "lost"):
        return
    if kind not in ("call", "tree", "variable"):
        raise ValueError(f"an undo entry has the unknown kind {kind!r}")
    plain = json.loads(data)
    if kind == "tree" and not {"cookie", "signal", "grace"} <= plain.keys():
        raise ValueError("the entry of a process tree is incomplete")


def _recorded(connection: sqlite3.Connection, file: Path) -> Recorded:
    facts = {
        key: json.loads(value)
        for key, value in list(connection.execute("SELECT key, value FROM environment"))
    }
    values = list(connection.execute("SELECT key, value, lost FROM state"))
    valued = {key for key, _, _ in values}
    undos: dict[str, list[RecordedUndo]] = {}
    rows = connection.execute(
        "SELECT number, step, hook, label, kind, data FROM undo WHERE NOT done ORDER BY number"
    )
    for number, step, hook, label, kind, data in list(rows):  # an open cursor keeps the file open
        _check_undo(kind, data)
        undos.setdefault(step, []).append(RecordedUndo(number, step, Hook(hook), label, kind, data))
    columns = (
        "name, needs, after, cleanup_hook, cleanup_when, fingerprint, outcome, completed, cleanup,"
        " hook_done, owners"
    )
    steps = {}
    found = connection.execute(f"SELECT {columns} FROM step ORDER BY number")  # noqa: S608 - ours
    for row in list(found):
        name, needs, after, hook, when, fingerprint, outcome, completed, cleanup, done, owners = row
        # A step with neither a recorded end nor a value did not succeed, so a `cleanup` hook that
        # takes the value (2) has nothing to undo.
        unmade = hook == 2 and outcome == "running" and when != "attempted" and name not in valued
        has_hook = bool(hook) and not unmade
        steps[name] = RecordedStep(
            name, tuple(json.loads(needs)), tuple(json.loads(after)), has_hook, when, fingerprint,
            StepOutcome(outcome).value, completed, CleanupOutcome(cleanup).value, bool(done),
            owners, tuple(undos.pop(name, ())),
        )  # fmt: skip
    if undos:
        raise ValueError(f"an undo entry belongs to an unknown step: {next(iter(undos))!r}")
    return Recorded(
        file, facts, steps,
        {key: value for key, value, _ in values},
        {key: lost for key, _, lost in values if lost is not None},
    )  # fmt: skip
