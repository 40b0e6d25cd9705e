"""The journal that the owner of a shared environment publishes, and that others clean up from."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.environments.environment import Environment
from pytest_plan.engine.journal.codec import text_of
from pytest_plan.engine.journal.schema import (
    connect,
    create,
    execute,
    reopen,
    replace,
    update,
)
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.identity import Owner, this_owner
from pytest_plan.plugin.run.environments.sharing.programs import is_request
from pytest_plan.plugin.run.environments.sharing.trust.ciphers import is_encrypted
from pytest_plan.plugin.run.environments.sharing.trust.seals import RowSeals
from pytest_plan.sharing.model import Kind, Row

if TYPE_CHECKING:
    from pytest_plan.engine.journal.seal import Key
    from pytest_plan.engine.journal.writing.transaction import Statement
    from pytest_plan.plugin.run.environments.sharing.link import Link

_ABOUT_STATE = ("INSERT OR REPLACE INTO state ", "DELETE FROM state ")
_WRITER = 3  # the place of the writer among the columns of a value
_FACT, _VALUE, _BEGUN = replace("environment"), replace("state"), replace("step")
# "Cleanup of the step has begun": it changes nothing that an earlier record has not changed.
_CLEANING = update("step", "name = ?1", cleanup="'pending'")
# A rebuilt journal has an identity of its own, and no owner.
_OF_THE_FILE = ("id", "place", "owner", "host", "namespace", "status")
_LOST = update("undo", "kind = 'tree' AND NOT done", kind="'lost'", data="?1")


class PublishedJournal:
    """Publishes the journal of the owner or caretaker, and reads that of the owners before it.

    Values of the State that tests have set are left out, because they are published anyway. Those
    of steps are sealed like the rest: a cleanup may delete what the value of its step names.

    Args:
        link: the part of this run in the environment, which it owns.
        key: the key with which the rows are sealed.
    """

    def __init__(self, link: Link, key: Key) -> None:
        self._link = link
        self._seals = RowSeals(link.access.environment, key, is_local=link.is_local)
        self._numbers = itertools.count(1)
        self._valued: set[str] = set()  # the steps whose values are published

    @property
    def problem(self) -> str | None:
        """Why no run on another machine can clean up; None if one can."""
        return self._seals.problem

    def publish(self, statements: Sequence[Statement]) -> None:
        """Publish statements.

        Raises:
            ShareError: the server is silent, or this run does not own the environment any more.
        """
        due = [_as_text(one) for one in statements if self._is_due(one)]
        epoch = self._link.access.environment.epoch  # an heir or a caretaker replaces no row
        rows = [
            Row(Kind.JOURNAL, f"{epoch:06} {next(self._numbers):08}", json.dumps(one))
            for one in due
        ]
        if rows:
            self._link.store.publish(self._link.access, [self._seals.seal(row) for row in rows])

    def _is_due(self, statement: Statement) -> bool:
        sql, values = statement
        if sql == _VALUE and values[0] == values[_WRITER]:
            self._valued.add(str(values[0]))
            return True
        return not sql.startswith(_ABOUT_STATE) or values[0] in self._valued

    def publish_cleaning(self, step: str) -> None:
        """Publish that the cleanup of a step has begun.

        Raises:
            ShareError: as `publish`.
        """
        self.publish([(_CLEANING, (step,))])

    def read(self) -> Recovered:
        """Return what this process can read of the published journal.

        Raises:
            ShareError: the server is silent, or this run does not own the environment any more.
        """
        store, access = self._link.store, self._link.access
        rows = sorted(store.rows(access, Kind.JOURNAL), key=lambda row: row.key)
        opened = [self._seals.open(row) for row in rows]
        return Recovered(
            [tuple(json.loads(row.text)) for row in opened if row is not None],
            [row for row in store.rows(access, Kind.STATE) if not is_request(row.key)],
            unread=opened.count(None),
        )


class Recovered:
    """A published journal.

    Args:
        statements: its statements, in their order.
        values: the rows of the State, whose values of steps are not used.
        unread: how many of its rows this process cannot read.

    Attributes:
        unread: how many of its rows this process cannot read.
    """

    def __init__(self, statements: Sequence[Any], values: Sequence[Row], *, unread: int) -> None:
        self._statements = statements
        self._values = values
        self.unread = unread

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts about the environment of the last owner that has recorded them."""
        return {
            values[0]: json.loads(values[1]) for sql, values in self._statements if sql == _FACT
        }

    @property
    def steps(self) -> Collection[str]:
        """The names of the steps that have begun."""
        return {values[0] for sql, values in self._statements if sql == _BEGUN}

    def rebuild(self, parent: Path, name: str, key: Key) -> Environment:
        """Write the journal to a new environment, which this process owns.

        What only the machine of the owner can undo is recorded as lost, with the reason.

        Args:
            parent: a private folder.
            name: the name of the new environment.
            key: the key that seals the new journal.

        Raises:
            JournalError: it cannot be written, or the published journal is damaged.
        """
        environment = Environment(parent, name, key)
        try:
            seal = create(environment.file, key)
            with contextlib.closing(connect(environment.file, seal)) as connection:
                connection.execute("BEGIN")
                for sql, values in self._all():
                    execute(connection, sql, values)
                connection.execute("COMMIT")
        except Exception as error:
            environment.release(remove=True)
            raise JournalError(f"the published journal of {name!r} cannot be used: {error}") from (
                error
            )
        return environment

    def update(self, environment: Environment, key: Key) -> None:
        """Write the newest values of the State to the journal of the lost owner.

        Args:
            environment: the environment of the lost owner, which this process owns.
            key: the key that seals its journal.

        Raises:
            JournalError: the journal cannot be read or written.
        """
        known = environment.read()
        seal, _ = reopen(environment.file, key)
        new = {row.key: _recorded(row) for row in self._values}
        with contextlib.closing(connect(environment.file, seal)) as connection:
            for name in known.state.keys() - new.keys() - known.steps.keys():
                connection.execute("DELETE FROM state WHERE key = ?", (name,))
            for name, (text, lost) in new.items():
                if name not in known.steps and known.state.get(name) != text:
                    layers = known.layers.get(name)
                    writer = layers[-1].writer if layers else ""
                    execute(connection, _VALUE, (name, text, lost, writer, None, None))

    def _all(self) -> Iterable[Statement]:
        elsewhere = self._machine()
        for sql, values in self._statements:
            is_file = sql == _FACT and values[0] in _OF_THE_FILE
            is_folder = sql == _FACT and values[0] == "scratch" and elsewhere
            if not (is_file or is_folder):
                yield sql, values
        steps = self.steps
        for row in self._values:
            if row.key not in steps:  # anybody with the URL can write it
                yield _VALUE, (row.key, *_recorded(row), "", None, None)
        if elsewhere:
            yield _LOST, (f"its processes are on {elsewhere}, and only that machine ends them",)

    def _machine(self) -> str:
        """Return the host of the owner if its processes cannot be seen from here; else ""."""
        me, facts = this_owner(), self.facts
        owner = facts.get("owner") or {}
        where = Owner(**owner, host=facts.get("host", ""), namespace=facts.get("namespace", ""))
        return "" if not where.is_elsewhere and where.boot == me.boot else where.host


def _as_text(statement: Statement) -> Statement:
    """Return a statement without bytes, which a row cannot have: with a large value as text."""
    sql, values = statement
    if sql != _VALUE or values[-1] is None:
        return statement
    key, kind, lost, writer, below, data = values
    return sql, (key, text_of(kind, data), lost, writer, below, None)


def _recorded(row: Row) -> tuple[str | None, str | None]:
    """Return the value of a row as a journal has it: its text, or why it has none."""
    return (None, "it contains a secret") if is_encrypted(row) else (row.text, None)
