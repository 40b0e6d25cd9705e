"""All stores answer alike: the rules in Python and those in the script of Redis are the same."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.model.errors import PlanError
from pytest_plan.sharing.model import Access, EnvironmentId, Joined, Kind, Lock, Project, Row, View
from pytest_plan.sharing.protocol import Store
from pytest_plan.sharing.urls import open_store
from tests.sharing.runs import PROJECT, joining, member
from tests.sharing.servers import Program

PROJECTS = [PROJECT, PROJECT, PROJECT, Project("f2", ("db", "web")), Project("f3", ("moon",))]
OPERATIONS = (
    *["join"] * 4, *["put"] * 3, *["leave"] * 3, *["close", "restart", "done", "claim"] * 2,
    "renew", "remove", "acquire", "release", "publish", "view", "rows", "notify", "end_joining",
)  # fmt: skip


class Twin:
    """One of several stores, on which the same is done."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._ids: dict[str, int] = {}
        self._accesses: list[Access] = []

    def do(self, operation: str, seed: int, people: list[Any]) -> Any:
        """Do one thing, and return the answer in a form that all twins share."""
        choose = random.Random(seed)
        try:
            return self._plain(self._do(operation, choose, people))
        except PlanError as error:
            text = str(error).replace(self._store.server, "S").replace(self._name, "N")
            return type(error).__name__, text, self._plain(getattr(error, "current", None))

    def _do(self, operation: str, choose: random.Random, people: list[Any]) -> Any:
        store = self._store
        if operation == "join" or not self._accesses:
            asked = joining(project=choose.choice(PROJECTS), runs=choose.choice([0, 0, 2]))
            found = store.join(self._name, asked._replace(member=choose.choice(people)))
            self._accesses.append(found.access)
            return found
        access = choose.choice(self._accesses[-4:])
        key, lock = choose.choice("ab"), Lock("db", choose.choice("12"))
        chance, person = choose.random(), choose.choice(people)
        version = self._version(access, key, choose)
        calls: dict[str, Callable[[], Any]] = {
            "put": lambda: bool(store.put(access, key, "1", version)),
            "remove": lambda: store.remove(access, key, version or 0),
            "leave": lambda: store.leave(access, failed=chance < 0.5),
            "close": lambda: store.close(access, anyway=chance < 0.5),
            "restart": lambda: store.restart(access, PROJECT),
            "done": lambda: store.done(access),
            "claim": lambda: store.claim(access.environment, person),
            "renew": lambda: store.renew(access),
            "acquire": lambda: store.acquire(access, lock),
            "release": lambda: store.release(access, lock),
            "publish": lambda: bool(store.publish(access, [Row(Kind.JOURNAL, key, "{}")])),
            "view": lambda: store.view(self._name),
            "rows": lambda: [*store.rows(access, Kind.JOURNAL), *store.rows(access, Kind.STATE)],
            "notify": lambda: store.notify(access, key),
            "end_joining": lambda: store.end_joining(access.environment),
        }
        found = calls[operation]()
        if operation == "claim":
            self._accesses.append(Access(found.environment, person.id))
        elif operation == "renew":
            self._accesses.append(access._replace(environment=found.environment))
        return found

    def _version(self, access: Access, key: str, choose: random.Random) -> int | None:
        """Return a version to expect. Stores may count differently, so it is that of the key."""
        with contextlib.suppress(PlanError):
            row = self._store.read(access, Kind.STATE, key)
            return choose.choice([None, 0, row.version if row else 0, 999_999])
        return choose.choice([None, 0, 999_999, 999_999])

    def _plain(self, value: Any) -> Any:
        if isinstance(value, EnvironmentId):
            return self._ids.setdefault(value.id, len(self._ids)), value.epoch
        if isinstance(value, Row):
            value = value._replace(version=0)
        if isinstance(value, View):
            value = value._replace(age=0.0, done_ago=float(value.done_ago is not None))
        if isinstance(value, Joined):
            is_again = value.begun_again_after is not None
            value = value._replace(begun_again_after=float(is_again))
        if isinstance(value, tuple | list):
            return [self._plain(one) for one in value]
        return value


@pytest.mark.parametrize("seed", range(4))
def test_all_stores_answer_alike(
    redis_program: Program, postgresql_program: Program, tmp_path: Path, name: str, seed: int
) -> None:
    """The same random operations, also wrong and stale ones, get the same answers everywhere."""
    stores = [
        open_store(url, tmp_path) for url in (redis_program.url, postgresql_program.url, "local")
    ]
    try:
        twins = [Twin(store, name) for store in stores]
        choose = random.Random(seed)
        people = [member(f"job {number}") for number in range(4)]
        seen = set()
        for step in range(150):
            operation = choose.choice(OPERATIONS)
            answers = [twin.do(operation, seed * 1000 + step, people) for twin in twins]
            assert answers[0] == answers[1] == answers[2], (step, operation)
            seen.add(str(answers[0]))
        assert len(seen) > 10  # it is not always the same refusal
    finally:
        for store in stores:
            store.shut()
