"""The store in a SQL database. Each change is one transaction that holds the environment's row."""

from __future__ import annotations

import abc
import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from pytest_plan.sharing.errors import Refusal, explained
from pytest_plan.sharing.model import (
    ENVIRONMENT,
    Access,
    EnvironmentId,
    Joined,
    Joining,
    Kind,
    Lock,
    Member,
    Project,
    Role,
    Row,
    View,
)
from pytest_plan.sharing.protocol import ABSENT, Listener
from pytest_plan.sharing.rules import rules
from pytest_plan.sharing.rules.record import MARK_KEPT, Moment, Record, record_of, view_of
from pytest_plan.sharing.stores.calls import (
    Calls,
    check_joining,
    check_key,
    check_name,
    check_text,
    new_id,
)
from pytest_plan.sharing.stores.statements import PUT, READ, RESERVE, SAVE, VERSION

T = TypeVar("T")
_ANSWERS_KEPT = 60 * 60 * 1000  # ms; a write is repeated for three leases at most


class Transaction(Protocol):
    """A transaction. Its statements have `?` for parameters."""

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Execute a statement and return its rows."""


class Change(NamedTuple):
    """The result of a change of a record.

    Attributes:
        record: the record after the change; None if nothing is to be saved.
        value: the answer, which JSON can hold.
        keys: the rows of which listeners are notified.
    """

    record: Record | None
    value: Any = None
    keys: Sequence[tuple[Kind, str]] = ()


Body = Callable[[Transaction, Record | None, Moment], Change]


class SqlStore(abc.ABC):
    """The store in a SQL database; see `protocol.Store`. A subclass knows the database.

    Args:
        calls: repeats calls to the server.
    """

    locking = ""  # the clause with which a SELECT locks its rows
    skipping = ""  # the same, without the rows that others have locked

    def __init__(self, calls: Calls) -> None:
        self.server = calls.server
        self._calls = calls

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.server}>"

    @abc.abstractmethod
    def transaction(self) -> contextlib.AbstractContextManager[Transaction]:
        """Return a context manager for a transaction that changes something."""

    @abc.abstractmethod
    def query(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """Return the rows of one statement, in a transaction of its own."""

    @abc.abstractmethod
    def moment(self, tx: Transaction) -> Moment:
        """Return the present moment of the database."""

    @abc.abstractmethod
    def announce(
        self, tx: Transaction, name: str, record: Record, keys: Sequence[tuple[Kind, str]]
    ) -> None:
        """Notify the listeners of an environment once the transaction is committed."""

    @abc.abstractmethod
    def listen(self, name: str) -> Listener:
        """Return the notifications of an environment; see `Store.listen`."""

    def join(self, name: str, joining: Joining, *, write: str = "") -> Joined:
        """Join an environment, or begin it; see `Store.join`."""
        check_name(name)
        check_joining(joining)

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            found, role = rules.join(record, joining, moment, new_id())
            value = {"role": role.value}
            if record is not None and found is not record:
                if record.done_at and not self._is_forgotten(record, moment):
                    value["ago"] = str(moment.now - record.done_at)
                tx.execute("DELETE FROM plan_row WHERE name = ?", [name])
            return Change(found, value, [ENVIRONMENT])

        answer, view = self._change(name, body, write, reserve=True)
        access = Access(view.environment, joining.member.id)
        ago = answer.get("ago")
        return Joined(Role(answer["role"]), access, view, None if ago is None else int(ago) / 1000)

    def view(self, name: str) -> View | None:
        """Return an environment; see `Store.view`."""

        def once() -> View | None:
            with self.transaction() as tx:
                record = self._locked(tx, name)
                moment = self.moment(tx)
                if record is None or self._is_forgotten(record, moment):
                    return None
                return view_of(name, record, moment)

        return self._calls.repeat(lambda: self._explain(name, once))

    def names(self) -> list[str]:
        """Return the names of all environments; see `Store.names`."""
        sql = "SELECT name FROM plan_environment WHERE record <> '' AND done_at = 0 ORDER BY name"
        return [row[0] for row in self._calls.repeat(lambda: self.query(sql, []))]

    def renew(self, access: Access) -> View:
        """Renew a lease; see `Store.renew`."""

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            found = rules.renew(record, access, moment)
            return Change(found, None, [ENVIRONMENT] if found.owner == access.member else [])

        return self._change(access.environment.name, body, "", answered=False)[1]

    def claim(self, environment: EnvironmentId, member: Member, *, write: str = "") -> View:
        """Take over a lost environment; see `Store.claim`."""

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            return Change(rules.claim(record, environment, member, moment), None, [ENVIRONMENT])

        return self._change(environment.name, body, write)[1]

    def publish(self, access: Access, rows: Sequence[Row], *, write: str = "") -> int:
        """Write rows of the owner; see `Store.publish`."""
        for row in rows:
            check_key(row.key)
            check_text(row.key, row.text)
        name = access.environment.name

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            found = rules.check_owner(record, access)
            found.version += 1
            found.published = True
            for row in rows:
                tx.execute(PUT, [name, row.kind.value, row.key, found.version, row.text])
            return Change(found, found.version, [(row.kind, row.key) for row in rows])

        return int(self._change(name, body, write)[0])

    def rows(self, access: Access, kind: Kind, after: int = 0) -> list[Row]:
        """Return rows of a kind; see `Store.rows`."""
        sql = READ.format(text=", r.text", which="r.kind = ? AND r.version > ?")
        return self._read(access, sql, [kind.value, after])

    def read(self, access: Access, kind: Kind, key: str) -> Row | None:
        """Return a row; see `Store.read`."""
        sql = READ.format(text=", r.text", which="r.kind = ? AND r.key = ?")
        return next(iter(self._read(access, sql, [kind.value, check_key(key)])), None)

    def versions(self, access: Access) -> dict[str, int]:
        """Return the versions of all keys; see `Store.versions`."""
        sql = READ.format(text=", ''", which="r.kind = ?")
        return {row.key: row.version for row in self._read(access, sql, [Kind.STATE.value])}

    def put(
        self, access: Access, key: str, text: str, version: int | None, *, write: str = ""
    ) -> int:
        """Write a key of the State; see `Store.put`."""
        return self._write(access, check_key(key), check_text(key, text), version, write)

    def remove(self, access: Access, key: str, version: int, *, write: str = "") -> bool:
        """Remove a key of the State; see `Store.remove`."""
        return self._write(access, check_key(key), None, version, write) != ABSENT

    def acquire(self, access: Access, lock: Lock, *, write: str = "") -> bool:
        """Try to acquire a lock; see `Store.acquire`."""
        check_key(lock.name)

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            return Change(record, rules.acquire(record, access, lock, moment))

        return bool(self._change(access.environment.name, body, write)[0])

    def release(self, access: Access, lock: Lock, *, write: str = "") -> None:
        """Release a lock; see `Store.release`."""

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            found = rules.release(record, access, lock)
            return Change(found, None, [(Kind.NOTICE, f"lock:{lock.name}")])

        self._change(access.environment.name, body, write)

    def notify(self, access: Access, key: str) -> None:
        """Notify all listeners; see `Store.notify`."""
        check_key(key)

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            return Change(rules.check_member(record, access), None, [(Kind.NOTICE, key)])

        self._change(access.environment.name, body, "", answered=False)

    def leave(self, access: Access, *, failed: bool, write: str = "") -> View:
        """Leave an environment; see `Store.leave`."""

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            return Change(rules.leave(record, access, moment, failed=failed), None, [ENVIRONMENT])

        return self._change(access.environment.name, body, write)[1]

    def end_joining(self, environment: EnvironmentId) -> View:
        """Let nobody join any more; see `Store.end_joining`."""

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            return Change(rules.end_joining(record, environment), None, [ENVIRONMENT])

        return self._change(environment.name, body, "", answered=False)[1]

    def close(self, access: Access, *, anyway: bool = False, write: str = "") -> View:
        """Begin the cleanup; see `Store.close`."""

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            return Change(rules.close(record, access, moment, anyway=anyway), None, [ENVIRONMENT])

        return self._change(access.environment.name, body, write)[1]

    def restart(self, access: Access, project: Project, *, write: str = "") -> View:
        """Open an environment again; see `Store.restart`."""

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            found = rules.restart(record, access, project)
            tx.execute("DELETE FROM plan_row WHERE name = ?", [access.environment.name])
            return Change(found, None, [ENVIRONMENT])

        return self._change(access.environment.name, body, write)[1]

    def done(self, access: Access, *, write: str = "") -> None:
        """End an environment; see `Store.done`."""
        name = access.environment.name

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            found = rules.done(record, access, moment)
            tx.execute("DELETE FROM plan_row WHERE name = ?", [name])
            return Change(found, None, [ENVIRONMENT])

        self._change(name, body, write)

    def _write(
        self, access: Access, key: str, text: str | None, version: int | None, write: str
    ) -> int:
        name = access.environment.name

        def body(tx: Transaction, record: Record | None, moment: Moment) -> Change:
            found = rules.check_writer(record, access)
            rows = tx.execute(VERSION, [name, Kind.STATE.value, key])
            current = rows[0][0] if rows else ABSENT
            if (version is not None and current != version) or (text is None and not rows):
                return Change(None, ABSENT)
            found.version += 1
            tx.execute(PUT, [name, Kind.STATE.value, key, found.version, text])
            return Change(found, found.version, [(Kind.STATE, key)])

        return int(self._change(name, body, write)[0])

    def _change(
        self, name: str, body: Body, write: str, *, reserve: bool = False, answered: bool = True
    ) -> tuple[Any, View]:
        """Change the record of an environment; return the value of the change, and the view."""
        write = write or new_id()

        def once() -> tuple[Any, View]:
            with self.transaction() as tx:
                return self._change_in(tx, name, body, write if answered else "", reserve)

        return self._calls.repeat(lambda: self._explain(name, once))

    def _change_in(
        self, tx: Transaction, name: str, body: Body, write: str, reserve: bool
    ) -> tuple[Any, View]:
        # The mark of another run can be deleted between the two statements.
        while reserve and not self._has_locked(tx, name):
            tx.execute(RESERVE, [name])
        record = self._locked(tx, name)
        moment = self.moment(tx)
        if write:
            sql = "SELECT answer FROM plan_answer WHERE name = ? AND id = ?"
            first = tx.execute(sql, [name, write])
            if first:
                value, text = json.loads(first[0][0])
                return value, view_of(name, record_of(text), moment)
        change = body(tx, record, moment)
        found = change.record or record
        assert found is not None, "every rule but that of `join` refuses a missing record"
        if change.record is not None:
            self.announce(tx, name, found, change.keys)
            values = [found.id, found.epoch, found.version, found.done_at, found.as_text(), name]
            tx.execute(SAVE, values)
        if write:
            self._answer(tx, name, write, moment.now, json.dumps([change.value, found.as_text()]))
        if reserve:
            self._forget(tx, moment.now)
        return change.value, view_of(name, found, moment)

    @staticmethod
    def _answer(tx: Transaction, name: str, write: str, now: int, answer: str) -> None:
        sql = "INSERT INTO plan_answer (name, id, at, answer) VALUES (?, ?, ?, ?)"
        tx.execute(sql, [name, write, now, answer])

    def _forget(self, tx: Transaction, now: int) -> None:
        """Delete marks and answers that are too old."""
        old = "SELECT name FROM plan_environment WHERE done_at > 0 AND done_at < ?"
        sql = f"DELETE FROM plan_environment WHERE name IN ({old}{self.skipping})"  # noqa: S608 - ours
        tx.execute(sql, [now - MARK_KEPT])
        old = "SELECT id FROM plan_answer WHERE at < ?"
        sql = f"DELETE FROM plan_answer WHERE id IN ({old}{self.skipping})"  # noqa: S608 - ours
        tx.execute(sql, [now - _ANSWERS_KEPT])

    def _has_locked(self, tx: Transaction, name: str) -> bool:
        sql = f"SELECT 1 FROM plan_environment WHERE name = ?{self.locking}"  # noqa: S608 - ours
        return bool(tx.execute(sql, [name]))

    def _locked(self, tx: Transaction, name: str) -> Record | None:
        """Return the record of an environment, which nobody else changes before the commit."""
        sql = f"SELECT record FROM plan_environment WHERE name = ?{self.locking}"  # noqa: S608 - ours
        rows = tx.execute(sql, [name])
        return record_of(rows[0][0]) if rows and rows[0][0] else None

    @staticmethod
    def _is_forgotten(record: Record, moment: Moment) -> bool:
        return bool(record.done_at) and moment.now - record.done_at >= MARK_KEPT

    def _read(self, access: Access, sql: str, values: Sequence[Any]) -> list[Row]:
        known = access.environment

        def once() -> list[Row]:
            found = self.query(sql, [*values, known.name])
            if not found or found[0][0] != known.id or found[0][2]:
                raise Refusal("unknown")
            if found[0][1] != known.epoch:
                raise Refusal("epoch", id=known.id, epoch=found[0][1])
            return [
                Row(Kind(kind), key, text, version)
                for _, _, _, kind, key, version, text in found
                if kind is not None
            ]

        return self._calls.repeat(lambda: self._explain(known.name, once))

    def _explain(self, name: str, once: Callable[[], T]) -> T:
        try:
            return once()
        except Refusal as refusal:
            raise explained(refusal, name, self.server) from None
