"""A database for each worker, on a real server, whatever is killed: none is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psycopg
import pytest

from pytest_plan import Plan
from pytest_plan.engine.execution.run import Run
from pytest_plan.engine.plan import begin
from pytest_plan.steps import PostgreSQL
from tests.plugin.project import Project
from tests.plugin.surroundings import outside, project  # noqa: F401

pytestmark = pytest.mark.engines

LONGEST = 60.0
STEPS = """
    import signal
    from pytest_plan.steps import create_database

    @pytest.mark.plan_step(per="worker")
    def database(ctx):
        url = create_database(ctx, os.environ["SERVER"], f"shop_{ctx.worker}", "shop_template")
        note("made", ctx.worker)
        if os.environ["KILL"] == "controller while it makes them" and ctx.worker == "gw1":
            ctx.wait_until(lambda: "made gw0" in open("calls.txt").read())
            os.kill(os.getpid(), signal.SIGKILL)
        return url

    @pytest.mark.plan_step(per="worker", after_tests=True)
    def second(ctx, database):
        return create_database(ctx, os.environ["SERVER"], f"shop_{ctx.worker}_2", "shop_template")
"""
TESTS = """
    import psycopg, signal, time
    from pathlib import Path

    def kill(pid, flag):
        if not Path(flag).exists():
            Path(flag).touch()
            os.kill(pid, signal.SIGKILL)

    def use(url, stage):
        with psycopg.connect(url) as connection:
            assert connection.execute("select name from thing").fetchone() == ("from template",)
            note("used", connection.execute("select current_database()").fetchone()[0])
        if os.environ["KILL"] in (f"controller in {stage}", f"both in {stage}"):
            kill(os.getppid(), "controller killed")
        if os.environ["KILL"] in (f"worker in {stage}", f"both in {stage}"):
            kill(os.getpid(), "worker killed")
        time.sleep(0.2)

    @pytest.mark.parametrize("number", range(10))
    def test_it(database, number):
        use(database, "stage 1")

    @pytest.mark.parametrize("number", range(10))
    def test_second(second, number):
        use(second, "stage 2")
"""


class Server(NamedTuple):
    """A server.

    Attributes:
        url: its URL.
        log: a function that returns its log.
    """

    url: str
    log: Callable[[], str]

    def databases(self) -> set[str]:
        """Return the names of the databases of workers."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("select datname from pg_database").fetchall()
        return {name for (name,) in rows if name.startswith("shop_gw")}

    def counts(self) -> tuple[int, int]:
        """Return how many databases were copied from the template, and how many were dropped."""
        log = self.log().lower()
        dropped = re.findall(r'statement: drop database [^\n]*"shop_gw', log)
        return log.count('template "shop_template"'), len(dropped)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that logs its statements, with a template."""
    plan = Plan()
    plan.add_step(PostgreSQL(settings={"log_statement": "ddl"}), name="db")
    run: Run = begin(plan)
    run.provision()
    assert plan.results["db"].error is None
    url = plan.state["db"]
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create database shop_template")
        with psycopg.connect(url.rpartition("/")[0] + "/shop_template") as connection:
            connection.execute("create table thing as select 'from template' as name")
        yield Server(url, lambda: run.step_runs["db"].log.tail(100_000))
    finally:
        run.clean_up()


@pytest.mark.parametrize(
    ("kill", "status"),
    [
        ("nothing", 0),
        ("worker in stage 1", 1),
        ("controller in stage 1", -signal.SIGKILL),
        ("both in stage 1", -signal.SIGKILL),
        ("worker in stage 2", 1),
        ("controller in stage 2", -signal.SIGKILL),
        ("both in stage 2", -signal.SIGKILL),
        ("controller while it makes them", -signal.SIGKILL),
    ],
)
def test_no_database_is_left(
    server: Server,
    project: Project,  # noqa: F811
    kill: str,
    status: int,
) -> None:
    """As many are dropped as were made; there were some while the tests ran."""
    project.steps(STEPS)
    project.tests(TESTS)
    copied, dropped = server.counts()
    assert server.databases() == set()
    command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-p", "xdist", "-n2", "-q"]
    environment = {**os.environ, "SERVER": server.url, "KILL": kill, "PYTHONPATH": os.pathsep.join(
        [*sys.path, str(project.path)]
    )}  # fmt: skip
    process = subprocess.Popen(command, cwd=project.path, env=environment)
    seen: set[str] = set()
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        seen |= (now := server.databases())
        if process.poll() is not None and not now:
            break
        time.sleep(0.05)
    assert process.wait() == status
    assert server.databases() == set()
    assert {"shop_gw0", "shop_gw1"} <= seen
    is_reached = "stage 2" in kill or status != -signal.SIGKILL
    assert any(name.endswith("_2") for name in seen) is is_reached
    after = server.counts()
    assert after[0] - copied == after[1] - dropped >= 2
