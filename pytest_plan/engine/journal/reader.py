"""Reads a whole journal and checks it.

A journal is data until its seals prove that this user wrote it. The reader builds only text,
numbers and collections of them, imports nothing, and runs no code that the journal refers to.
"""

# Annotations are not postponed: a NamedTuple would compile each of them, in the reaper's program.
import contextlib
import json
import os
import sqlite3
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytest_plan.engine.definition.names import full_name, template_of, worker_of
from pytest_plan.engine.journal.schema import (
    APPLICATION,
    FORMAT,
    LOGS,
    check_schema,
    check_seals,
    id_of,
    is_sealed,
    place_of,
)
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.errors import JournalError, PlanDefinitionError
from pytest_plan.engine.model.outcomes import CleanupOutcome, Hook, StepOutcome
from pytest_plan.engine.model.secret import KEY_VARIABLE
from pytest_plan.engine.processes.identity import Identity

MOST_OWNERS = 3  # maximum number of processes that try to clean up a step
_MOST_BYTES = 1 << 30  # maximum size of each file of a journal


class ForeignError(JournalError):
    """A journal was not written by this user, or not where it is now. Nothing in it is used."""


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


class Layer(NamedTuple):
    """A value of a key of the State.

    Attributes:
        writer: the step that has written it; "" if no step has.
        text: the encoded value; None if it could not be written.
        lost: the reason why it could not be written; None if it could.
    """

    writer: str
    text: str | None
    lost: str | None


class RecordedStep(NamedTuple):
    """A step that has begun, as recorded in the journal.

    Attributes:
        name: name of the step in its run.
        folder: the folder in its full name; "" if the full name has none.
        needs: names of the steps that it needs.
        after: names of the steps that it is ordered after.
        has_cleanup_hook: whether it has a `cleanup` hook with something to do.
        cleanup_when: its option `cleanup_when`.
        cleanup_function: the reference to its `cleanup` hook; None if it has none, or none that
            can be found by name.
        fingerprint: the fingerprint of its code and options at the time of the run.
        outcome: the last recorded status of the step.
        completed: its position in the order of completion, counted from 1; 0 if it has not ended.
        cleanup: the last recorded status of its cleanup.
        cleanup_error: the first failure of its last cleanup, on one line; "" if it did not fail.
        hook_done: whether its `cleanup` hook has succeeded.
        owners: the number of processes that have begun to clean it up.
        undos: the undos that have not been performed yet, in order of registration.
    """

    name: str
    folder: str
    needs: tuple[str, ...]
    after: tuple[str, ...]
    has_cleanup_hook: bool
    cleanup_when: str
    cleanup_function: tuple[str, str, str | None] | None
    fingerprint: str
    outcome: str
    completed: int
    cleanup: str
    cleanup_error: str
    hook_done: bool
    owners: int
    undos: tuple[RecordedUndo, ...]

    @property
    def full_name(self) -> str:
        """The full name of the step."""
        return full_name(self.folder, self.name)

    @property
    def template(self) -> str:
        """The name of the step in its run, without what distinguishes its instances."""
        return template_of(self.name, self.folder)

    @property
    def worker(self) -> str | None:
        """The worker that this instance was for; None if it was for all."""
        return worker_of(self.name)

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
    def is_exhausted(self) -> bool:
        """Whether it needs cleanup, but `MOST_OWNERS` processes have tried."""
        return self.needs_cleanup and self.owners >= MOST_OWNERS

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
        layers: the values that were written to each key, by different steps, oldest first. The
            last one is the value of the key.
    """

    file: Path
    facts: Mapping[str, Any]
    steps: Mapping[str, RecordedStep]
    state: Mapping[str, str | None]
    lost: Mapping[str, str]
    layers: Mapping[str, tuple[Layer, ...]]

    @property
    def owner(self) -> Identity | None:
        """The process that last opened its journal; None if no owner was recorded."""
        owner = self.facts.get("owner")
        return None if owner is None else Identity(**owner)

    @property
    def is_kept(self) -> bool:
        """Whether the environment was kept on purpose."""
        return self.facts.get("status") == "kept"

    @property
    def forgotten(self) -> list[str]:
        """The steps whose records were removed; no run has provisioned them again."""
        return list(self.facts.get("forgotten", ()))

    def due(self) -> list[RecordedStep]:
        """Return the steps that still need cleanup."""
        return [step for step in self.steps.values() if step.needs_cleanup]

    def exhausted(self) -> bool:
        """Return whether `MOST_OWNERS` processes have tried to clean up every step that is due."""
        due = self.due()
        return bool(due) and all(step.is_exhausted for step in due)

    def check_place(self) -> None:
        """Check that the journal is where its owner wrote it, or was kept on purpose.

        Raises:
            ForeignError: it was copied, moved or restored. What it records may be in use elsewhere.
        """
        if not self.is_kept and self.facts.get("place") != place_of(self.file):
            raise ForeignError(
                f"the journal {self.file} was moved, copied or restored since its run wrote it, so "
                "nothing in it is cleaned up and it is left unchanged; make sure that nothing is "
                f"left of its run, then remove the folder {self.file.parent}"
            )


def read(file: Path, key: Key | None = None) -> Recorded:
    """Read a journal and check it. This does not change the file.

    Args:
        file: the journal.
        key: the key that must have sealed its rows; None means the key of this user.

    Raises:
        ForeignError: the journal is not sealed with this key, or has another format.
        JournalError: the file is not a journal, or is damaged.
    """
    with _opened(file) as connection:
        _check(connection, file, key or Key.of(os.environ))
        return _recorded(connection, file)


def refuse_foreign(file: Path, key: Key) -> None:
    """Check that a journal was written by this user, without reading the rest of it.

    Raises:
        ForeignError: the journal is not sealed with this key, or has another format.
        JournalError: the file is not a journal, or is damaged.
    """
    with _opened(file) as connection:
        _check_origin(connection, file, key)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal for reading; report what is wrong with it as a JournalError."""
    try:
        _check_files(file)
        with contextlib.closing(_connected(file)) as connection:
            yield connection
    except (
        sqlite3.Error,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        MemoryError,
    ) as error:
        if isinstance(error, PlanDefinitionError):  # a ValueError: the variable has no key
            raise JournalError(str(error)) from None
        raise JournalError(
            f"cannot read the journal {file} ({error}); it is left unchanged and nothing in it is "
            "cleaned up; make sure that nothing is left of its environment, then remove its folder"
        ) from error


def _check_files(file: Path) -> None:
    """Raise an error unless SQLite can open each file without waiting, and all are ours."""
    for path in (file, *(file.with_name(f"{file.name}{suffix}") for suffix in LOGS)):
        try:
            status = path.lstat()
        except FileNotFoundError:
            if path is file:
                raise
            continue
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path.name} is a link, or not a regular file")
        if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
            raise ValueError(f"{path.name} belongs to user {status.st_uid}")
        if status.st_size > _MOST_BYTES:
            raise ValueError(f"{path.name} has more than {_MOST_BYTES >> 20} MiB")
    if os.path.lexists(f"{file}-journal"):
        # SQLite would apply it, and it can name other files that SQLite would then remove.
        raise ValueError(f"{file.name}-journal is there, which pytest-plan never writes")


def _connected(file: Path) -> sqlite3.Connection:
    # Open the file read-only, to avoid changing a damaged file or creating a missing one.
    where = f"{file.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(where, uri=True, timeout=5.0)
    # Nothing in the file may make SQLite run a function, a trigger or a view.
    for pragma in ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {pragma}")
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW, False)
    return connection


def _check_origin(connection: sqlite3.Connection, file: Path, key: Key) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION:
        raise ValueError("it was not created by pytest-plan")
    if version != FORMAT:
        raise ForeignError(
            f"the journal {file} has format {version}, but this version of pytest-plan reads "
            f"format {FORMAT}, so nothing in it is cleaned up and it is left unchanged; clean it "
            f"up with the version that wrote it, or remove the folder {file.parent}"
        )
    check_schema(connection)
    if not is_sealed(connection, key.seal(id_of(connection))):
        raise ForeignError(
            f"the journal {file} is not sealed with the key of this user: it came with a copy, a "
            "cache or another machine, or is damaged; nothing in it is cleaned up and it is left "
            f"unchanged; if it is yours, set {KEY_VARIABLE} to the key of the run that wrote it "
            "and run pytest --plan-cleanup; if it is not, remove the folder "
            f"{file.parent}"
        )


def _check(connection: sqlite3.Connection, file: Path, key: Key) -> None:
    _check_origin(connection, file, key)
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
    rows = connection.execute("SELECT key, value FROM environment")
    facts = {key: json.loads(value) for key, value in list(rows)}
    rows = connection.execute("SELECT key, value, lost, writer, below, data FROM state")
    with contextlib.closing(rows):  # a list of all rows could take much memory
        layers = {key: (*map(_layer, json.loads(below or "[]")), _layer((writer, text, lost), data))
                  for key, text, lost, writer, below, data in rows}  # fmt: skip
    undos: dict[str, list[RecordedUndo]] = {}
    rows = connection.execute(
        "SELECT number, step, hook, label, kind, data FROM undo WHERE NOT done ORDER BY number"
    )
    for number, step, hook, label, kind, data in list(rows):  # an open cursor keeps the file open
        _check_undo(kind, data)
        undos.setdefault(step, []).append(RecordedUndo(number, step, Hook(hook), label, kind, data))
    columns = (
        "name, folder, needs, after, cleanup_hook, cleanup_when, cleanup_function, fingerprint,"
        " outcome, completed, cleanup, cleanup_error, hook_done, owners"
    )
    steps = {}
    found = connection.execute(f"SELECT {columns} FROM step ORDER BY number")  # noqa: S608 - ours
    for row in list(found):
        (name, folder, needs, after, hook, when, function, fingerprint, outcome, completed, cleanup,
         error, done, owners) = row  # fmt: skip
        # A step with neither a recorded end nor a value did not succeed, so a `cleanup` hook that
        # takes the value (2) has nothing to undo.
        unmade = hook == 2 and outcome == "running" and when != "attempted" and name not in layers
        has_hook = bool(hook) and not unmade
        steps[name] = RecordedStep(
            name, str(folder), tuple(json.loads(needs)), tuple(json.loads(after)), has_hook, when,
            _reference(function), fingerprint, StepOutcome(outcome).value, completed,
            CleanupOutcome(cleanup).value, error, bool(done), owners, tuple(undos.pop(name, ())),
        )  # fmt: skip
    if undos:
        raise ValueError(f"an undo entry belongs to an unknown step: {next(iter(undos))!r}")
    return Recorded(
        file, facts, steps,
        {key: found[-1].text for key, found in layers.items()},
        {key: found[-1].lost for key, found in layers.items() if found[-1].lost is not None},
        layers,
    )  # fmt: skip


def _layer(row: Sequence[Any], data: bytes | None = None) -> Layer:
    if data is None:
        return Layer(*row)
    from pytest_plan.engine.journal.codec import text_of  # late: few journals have a large value

    return Layer(row[0], text_of(row[1], data), row[2])


def _reference(text: str) -> tuple[str, str, str | None] | None:
    """Return the parts of a reference to a function; None if there is none."""
    if not text:
        return None
    module, qualname, file = json.loads(text)
    return module, qualname, file
