"""A run that joins a shared environment.

Another run has provisioned the environment. With `local`, a database in the plan's folder has the
State; else a Redis or PostgreSQL server on the same machine. In the first row of each, a run of 500
tests that joins is compared with the same run without `--plan-share`, which executes three empty
steps itself. With a server, most of the difference is the import of the client library, which the
second row adds to the other run. callgrind makes a run
many times slower, so the lease is so long that it is not renewed more often than in other runs. The
next row counts the scripts that Redis runs for each read of the State.

The last rows divide the time to read a small value of the State in a run that shares by the time
that this takes in a pytest-xdist worker of a run that does not share. It is the time within which a
tenth of the reads of a run are answered. The runs alternate, and each figure is a median.
"""

from __future__ import annotations

import contextlib
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from pytest_plan.steps.servers import postgresql, redis
from pytest_plan.steps.servers.programs import Kind
from tests.benchmarks import instructions
from tests.benchmarks.instructions import ROOT
from tests.benchmarks.suite import EMPTY_PLUGIN, Suite
from tests.benchmarks.table import Row, at_most
from tests.sharing.servers import Program, missing, postgresql_server, redis_server

TESTS = 500
READS = 400
REPEATS = 5
MOST = 1.05


class Server(NamedTuple):
    """A kind of server.

    Attributes:
        kind: where its program can be.
        start: starts it.
        client: the module of its client library.
    """

    kind: Kind
    start: Callable[[], AbstractContextManager[Program]]
    client: str


SERVERS = {
    "Redis": Server(redis.KIND, redis_server, "redis"),
    "PostgreSQL": Server(postgresql.KIND, postgresql_server, "psycopg"),
}
_STEPS = """
import pytest

@pytest.mark.plan_step
def net(state):
    state["small"] = {"host": "127.0.0.1", "port": 5432}
    return "10.0.0.0/8"

@pytest.mark.plan_step
def db(net): return {"url": "postgresql://10.0.0.7/db"}

@pytest.mark.plan_step
def app(db): return "http://10.0.0.8"
"""
_TESTS = f"""
import os
import time

import pytest
from notes import note

@pytest.mark.parametrize("number", range({TESTS}))
def test_many(number, app): pass

def test_reads(plan, app):
    times = []
    for _ in range({READS}):
        begun = time.perf_counter()
        plan.state["small"]
        times.append(time.perf_counter() - begun)
    note(sorted(times)[{READS} // 10])

def test_nothing(app): pass
"""
_FILES = {
    "conftest.py": _STEPS,
    "test_it.py": _TESTS,
    **{f"uses_{one.client}.py": f"import {one.client}\n" for one in SERVERS.values()},
}
_STAYS = ("--plan-share-runs=999", "-o", "plan_share_lease=1h")
_LOCAL = ("--plan-share", "local")
_MANY, _READING, _NOTHING = ("-k", "test_many"), ("-k", "test_reads"), ("-k", "test_nothing")


def rows(_other: Path | None) -> Iterator[Row]:
    """Measure and yield the rows; nothing is compared with another checkout."""
    with Suite(_FILES, "xdist", "pytest_plan") as suite:
        with _owner(suite, _LOCAL):
            yield from _rows(suite, "local", _LOCAL)
        for name, one in SERVERS.items():
            if reason := missing(one.kind):
                yield Row("skipped", reason)
                continue
            with one.start() as server:
                share = ("--plan-share", server.url, "--plan-environment=bench")
                with _owner(suite, share):
                    yield from _rows(suite, name, share)
                    if name == "Redis":
                        yield _commands(suite, share, server.url)


def _rows(suite: Suite, name: str, share: tuple[str, ...]) -> Iterator[Row]:
    if instructions.is_available():
        yield from _joining(suite, name, share)
    yield from _reads(suite, name, share)


@contextlib.contextmanager
def _owner(suite: Suite, share: tuple[str, ...]) -> Iterator[None]:
    """Provision a shared environment, and keep it."""
    process = subprocess.Popen(
        [sys.executable, *suite.arguments(*share, *_STAYS, *_NOTHING)],
        cwd=suite.path, env=instructions.variables(ROOT, suite.path), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        said = ""
        while "cleanup waits" not in said:
            said = process.stdout.readline()
            assert said, "the owner has ended"
        yield
    finally:
        while process.poll() is None:  # the second signal ends the wait for other runs
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
        process.stdout.close()


def _joining(suite: Suite, name: str, share: tuple[str, ...]) -> Iterator[Row]:
    joins = suite.count("-p", EMPTY_PLUGIN, *share, *_MANY)
    alone = suite.count("-p", EMPTY_PLUGIN, *_MANY)
    what = f"{TESTS} tests, {name}: joins / provisions on its own"
    yield at_most(what, "x", [joins / alone], MOST)
    if name not in SERVERS:
        return
    with_client = suite.count("-p", f"uses_{SERVERS[name].client}", *_MANY)
    what = f"{TESTS} tests, {name}: joins / provisions on its own and imports the client library"
    yield at_most(what, "x", [joins / with_client], MOST)


def _commands(suite: Suite, share: tuple[str, ...], url: str) -> Row:
    """Count the scripts that Redis ran for the reads of a test."""
    import redis as client

    def calls(*options: str) -> int:
        before = scripts()
        suite.run(*share, *options)
        return scripts() - before

    def scripts() -> int:
        return int(connection.info("commandstats")["cmdstat_evalsha"]["calls"])

    with client.Redis.from_url(url) as connection:
        extra = (calls(*_READING) - calls(*_NOTHING)) / READS
    return at_most("Redis: commands for each read of the State", "commands", [extra], MOST)


def _reads(suite: Suite, name: str, share: tuple[str, ...]) -> Iterator[Row]:
    kinds = {
        f"{name}, a run without workers": share,
        f"{name}, a pytest-xdist worker": (*share, "-n1"),
    }
    ratios: dict[str, list[float]] = {what: [] for what in kinds}
    for _ in range(REPEATS):
        alone = _seconds(suite, "-n1")
        for what, options in kinds.items():
            ratios[what].append(_seconds(suite, *options) / alone)
    for what, found in ratios.items():
        yield at_most(f"{what}: a read / in a worker without sharing", "x", found)


def _seconds(suite: Suite, *options: str) -> float:
    """Return the time of a quick read in one run."""
    suite.run(*options, *_READING)
    return statistics.median(float(line) for line in suite.history())
