"""What a journal tells about an environment: read whole, checked, and never run here."""

from __future__ import annotations

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

MOST_OWNERS = 3  # that try the cleanup of a step


class RecordedUndo(NamedTuple):
    """Something to take back.

    Attributes:
        number: names it in the journal.
        step: the step that made it.
        hook: the hook that made it.
        label: names it in reports.
        kind: `call`, `tree`, `variable`, `tail` or `lost`.
        data: what a later process needs of it; for `lost`, why there is nothing.
    """

    number: int
    step: str
    hook: Hook
    label: str
    kind: str
    data: str


class RecordedStep(NamedTuple):
    """A step that had begun.

    Attributes:
        name: its name.
        needs: the steps it needs.
        after: the steps it is ordered after.
        has_cleanup_hook: whether it had a `cleanup` hook that could do anything.
        cleanup_when: its option.
        fingerprint: of its code and options, as it was.
        outcome: how it stood.
        completed: its rank among those that had ended, 0 if it had not.
        cleanup: how its cleanup stood.
        hook_done: whether its `cleanup` hook has succeeded.
        owners: how many have begun to clean it up.
        undos: what is still to be taken back, as it was made.
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
        """Whether its `cleanup` hook must run; a step whose end is not known may have succeeded."""
        if not self.has_cleanup_hook or self.hook_done:
            return False
        return self.cleanup_when == "attempted" or self.outcome in (
            "succeeded",
            "reused",
            "running",
        )

    @property
    def needs_cleanup(self) -> bool:
        """Whether anything of it is left."""
        return self.hook_is_due or any(undo.kind != "variable" for undo in self.undos)

    @property
    def can_be_cleaned(self) -> bool:
        """Whether another process could take back anything of what is left."""
        return self.hook_is_due or any(undo.kind in ("call", "tree") for undo in self.undos)


class Recorded(NamedTuple):
    """An environment as its journal tells it.

    Attributes:
        file: the journal.
        facts: what its owners noted about it.
        steps: the steps that had begun, by name, in the order in which they began.
        state: the text of each value; None where it could not be written.
        lost: why a value could not be written, by key.
    """

    file: Path
    facts: Mapping[str, Any]
    steps: Mapping[str, RecordedStep]
    state: Mapping[str, str | None]
    lost: Mapping[str, str]

    @property
    def owner(self) -> Identity | None:
        """Who made it, or cleaned it up last; None when it died before it could say so."""
        owner = self.facts.get("owner")
        return None if owner is None else Identity(**owner)

    @property
    def is_kept(self) -> bool:
        """Whether it was left on purpose."""
        return self.facts.get("status") == "kept"

    def due(self) -> list[RecordedStep]:
        """Return the steps of which something is left."""
        return [step for step in self.steps.values() if step.needs_cleanup]

    def exhausted(self) -> bool:
        """Whether enough owners have tried."""
        due = self.due()
        return bool(due) and all(step.owners >= MOST_OWNERS for step in due)


def read(file: Path) -> Recorded:
    """Return what a journal tells.

    Raises:
        JournalError: it is no journal, damaged, or of another format; it is left as it is.
    """
    try:
        # Read only: what cannot be read stays as it is, and what is not there is not made.
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
            f"{file} is no readable journal ({error}): it is kept and nothing of it is cleaned up; "
            "remove its folder when you have made sure that nothing is left"
        ) from error


def _check(connection: sqlite3.Connection, file: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION:
        raise ValueError("it was not made by pytest-plan")
    if version != FORMAT:
        raise JournalError(
            f"{file} has format {version}, this pytest-plan reads format {FORMAT}: it is kept as "
            "it is; clean it up with the version that made it"
        )
    # An index is checked, too: what it misses would not be found when it is to change.
    problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if problem != "ok":
        raise ValueError(problem)
    check_seals(connection)


def _check_undo(kind: str, data: str) -> None:
    if kind in ("tail", "lost"):
        return
    if kind not in ("call", "tree", "variable"):
        raise ValueError(f"unknown kind {kind!r} of undo")
    plain = json.loads(data)
    if kind == "tree" and not {"cookie", "since", "signal", "grace"} <= plain.keys():
        raise ValueError("a process tree without its cookie")


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
    for number, step, hook, label, kind, data in list(rows):  # or the file stays open
        _check_undo(kind, data)
        undos.setdefault(step, []).append(RecordedUndo(number, step, Hook(hook), label, kind, data))
    columns = (
        "name, needs, after, cleanup_hook, cleanup_when, fingerprint, outcome, completed, cleanup,"
        " hook_done, owners"
    )
    steps = {}
    found = connection.execute(f"SELECT {columns} FROM step ORDER BY number")  # noqa: S608 - ours
    for row in list(found):
        name, needs, after, hook, when, print_, outcome, completed, cleanup, done, owners = row
        # A step that has not ended and has no value did not succeed: a hook that takes the value
        # (2) has nothing to remove.
        unmade = hook == 2 and outcome == "running" and when != "attempted" and name not in valued
        has_hook = bool(hook) and not unmade
        steps[name] = RecordedStep(
            name, tuple(json.loads(needs)), tuple(json.loads(after)), has_hook, when, print_,
            StepOutcome(outcome).value, completed, CleanupOutcome(cleanup).value, bool(done),
            owners, tuple(undos.pop(name, ())),
        )  # fmt: skip
    if undos:
        raise ValueError(f"something belongs to no step: {next(iter(undos))!r}")
    return Recorded(
        file, facts, steps,
        {key: value for key, value, _ in values},
        {key: lost for key, _, lost in values if lost is not None},
    )  # fmt: skip
