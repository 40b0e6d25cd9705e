"""The stores that tests of sharing use: the same suite for all of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_plan.sharing.protocol import Store
from pytest_plan.sharing.urls import open_store
from pytest_plan.steps.servers import postgresql, redis
from tests.sharing.servers import Program, missing, postgresql_server, redis_server

KINDS = ("local", "redis", "postgresql")
Open = Callable[..., Store]


@pytest.fixture(scope="session")
def redis_program() -> Iterator[Program]:
    """A Redis server for all tests of this process."""
    pytest.importorskip("redis")
    if reason := missing(redis.KIND):
        pytest.skip(reason)
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_program() -> Iterator[Program]:
    """A PostgreSQL server for all tests of this process."""
    pytest.importorskip("psycopg")
    if reason := missing(postgresql.KIND):
        pytest.skip(reason)
    with postgresql_server() as server:
        yield server


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    """The URL of each kind of store."""
    if request.param == "local":
        return "local"
    return str(request.getfixturevalue(f"{request.param}_program").url)


@pytest.fixture
def name() -> str:
    """The name of an environment that no other test uses."""
    return f"job {uuid.uuid4().hex}/8"


@pytest.fixture
def open_(url: str, tmp_path: Path) -> Iterator[Open]:
    """A function that opens the store; each call is like another run. Closes all at the end."""
    opened: list[Store] = []

    def call(patience: float = 10.0) -> Store:
        opened.append(open_store(url, tmp_path / "plan", patience=patience))
        return opened[-1]

    yield call
    for store in opened:
        store.shut()


@pytest.fixture
def store(open_: Open) -> Store:
    """One store."""
    return open_()
