"""The functions `create_database` and `database_url`."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pytest_plan import Plan, PlanDefinitionError, StepError
from pytest_plan.steps import PostgreSQL, create_database, database_url
from tests.plugin.project import Project
from tests.plugin.surroundings import outside, project  # noqa: F401
from tests.steps.running import cause_of, run

LONGEST = 30.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a server."""
    plan = Plan()
    plan.add_step(PostgreSQL(), name="db")
    with plan.provisioned() as state:
        yield state["db"]


@pytest.fixture(params=["psycopg", "psql"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The client with which databases are created."""
    if request.param == "psql":
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "psycopg" else find(name)
        )
    return str(request.param)


def databases(url: str) -> set[str]:
    """Return the names of the databases of a server, without those that it always has."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("select datname from pg_database").fetchall()
    return {name for (name,) in rows} - {"postgres", "template0", "template1"}


@pytest.mark.engines
@pytest.mark.parametrize("name", ["shop", 'an "odd" näme', "SHOP%", "it's"])
def test_the_database_is_there_until_cleanup(url: str, client: str, name: str) -> None:
    """Its URL is that of the server with another name."""

    def look(created: str) -> None:
        assert created == database_url(url, name)
        with psycopg.connect(created) as connection:
            row = connection.execute("select current_database()").fetchone()
        assert row == (name,)
        assert databases(url) == {name}

    run(lambda ctx: create_database(ctx, url, name), look)
    assert databases(url) == set()


@pytest.mark.engines
def test_a_template_is_copied(url: str, client: str) -> None:
    """The URL may even be that of the template."""

    def exec(ctx: Any) -> str:
        template = create_database(ctx, url, "template")
        with psycopg.connect(template) as connection:
            connection.execute("create table a as select 5 as b")
        return create_database(ctx, template, "copy", template="template")

    def look(created: str) -> Any:
        with psycopg.connect(created) as connection:
            return connection.execute("select b from a").fetchone()

    assert run(exec, look) == (5,)
    assert databases(url) == set()


@pytest.mark.engines
def test_open_sessions_do_not_keep_a_database(url: str, client: str) -> None:
    """Cleanup ends them."""
    session = run(lambda ctx: create_database(ctx, url, "shop"), psycopg.connect)
    assert databases(url) == set()
    session.close()


@pytest.mark.engines
def test_a_database_of_somebody_else_is_not_dropped(url: str, client: str) -> None:
    """A name that is taken is an error, and nothing is left of the attempt."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create database shop")
        try:
            error = cause_of(lambda ctx: create_database(ctx, url, "shop"))
            assert str(error).startswith("cannot create database 'shop': ")
            assert 'database "shop" already exists' in str(error)
            assert databases(url) == {"shop"}
        finally:
            connection.execute("drop database shop")


@pytest.mark.engines
@pytest.mark.parametrize(
    ("template", "cause"),
    [("nowhere", 'template database "nowhere" does not exist'), ("busy", "being accessed by")],
)
def test_what_the_server_refuses_is_one_message(
    url: str, client: str, template: str, cause: str
) -> None:
    """It has the words of the server."""

    def exec(ctx: Any) -> None:
        with psycopg.connect(create_database(ctx, url, "busy")):
            create_database(ctx, url, "copy", template=template)

    message = str(cause_of(exec))
    assert message.startswith("cannot create database 'copy': ")
    assert cause in message
    assert databases(url) == set()


@pytest.mark.engines
def test_a_server_that_does_not_answer_is_one_message(client: str) -> None:
    """There is nothing to drop, so cleanup does not fail as well."""
    with pytest.raises(StepError) as caught:
        run(lambda ctx: create_database(ctx, "postgresql://me@127.0.0.1:1/x", "shop"))
    message = str(caught.value.__cause__)
    assert message.startswith("cannot create database 'shop': ")
    assert "onnection refused" in message
    assert caught.value.cleanup_error is None


@pytest.mark.engines
def test_workers_get_databases_of_their_own(url: str, project: Project) -> None:  # noqa: F811
    """With `-n 2`, all databases are gone at the end."""
    project.steps(
        "from pytest_plan.steps import create_database",
        f"""
        @pytest.mark.plan_step
        def shops(ctx):
            return {{f"gw{{n}}": create_database(ctx, {url!r}, f"shop_gw{{n}}") for n in (0, 1)}}
        """,
    )
    project.tests(
        """
        import psycopg
        @pytest.mark.parametrize("n", range(4))
        def test_it(shops, worker_id, n):
            with psycopg.connect(shops[worker_id]) as connection:
                note(connection.execute("select current_database()").fetchone()[0])
        """
    )
    result = project.run_apart("-p", "xdist", "-n2")
    result.assert_outcomes(passed=4)
    assert set(project.calls) <= {"shop_gw0", "shop_gw1"}
    assert databases(url) == set()


@pytest.mark.engines
@pytest.mark.parametrize("attach", [False, True])
def test_sigkill_leaves_no_database(url: str, project: Project, attach: bool) -> None:  # noqa: F811
    """The reaper drops it, also if the URL is that of a server which is there already."""
    project.steps(
        "from pytest_plan.steps import PostgreSQL, create_database",
        f"@pytest.mark.plan_step\nclass db(PostgreSQL): attach = {'THE_URL' if attach else None!r}",
        """
        @pytest.mark.plan_step
        def shop(ctx, db):
            return create_database(ctx, os.environ["THE_URL"], "shop")
        """
        if attach
        else f"@pytest.mark.plan_step\ndef shop(ctx): return create_database(ctx, {url!r}, 'shop')",
    )
    project.tests(
        "import signal\ndef test_it(shop): note(shop); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-q"]
    environment = {**os.environ, "THE_URL": url}
    done = subprocess.run(command, cwd=project.path, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert project.calls == [database_url(url, "shop")]
    deadline = time.monotonic() + LONGEST
    while databases(url) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert databases(url) == set()


def test_without_a_client_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither psycopg nor psql is there."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("pytest_plan.steps.databases._psql", lambda: None)
    with pytest.raises(Exception, match=r"pip install 'pytest-plan\[postgres\]'"):
        run(lambda ctx: create_database(ctx, "postgresql://me@127.0.0.1:1/x", "shop"))


@pytest.mark.parametrize(
    ("url", "name", "message"),
    [
        ("postgresql://a@b/c", "", "'' is not the name of a database"),
        ("postgresql://a@b/c", "a\0b", "is not the name of a database"),
        ("postgresql://a@b/c", 5, "5 is not the name of a database"),
        ("shop", "a", "the URL of a database must be such as"),
        (None, "a", "the URL of a database must be such as"),
        ("postgresql://a@b/c", "ä" * 32, "is longer than 63 bytes"),
        ("mysql://a@b/c", "a", "a URL must begin with 'postgresql://', not 'mysql'"),
    ],
)
def test_a_bad_argument_is_refused(url: Any, name: Any, message: str) -> None:
    """Nothing is created or dropped."""
    error = cause_of(lambda ctx: create_database(ctx, url, name))
    assert isinstance(error, PlanDefinitionError)
    assert message in str(error)


@pytest.mark.parametrize(
    ("url", "name", "wanted"),
    [
        ("postgresql://a:b@c:5/d?sslmode=require", "e", "postgresql://a:b@c:5/e?sslmode=require"),
        ("postgresql+psycopg://a@c", "e f/g", "postgresql+psycopg://a@c/e%20f%2Fg"),
        ("mysql://a@c/d", "ä", "mysql://a@c/%C3%A4"),
    ],
)
def test_only_the_database_of_a_url_changes(url: str, name: str, wanted: str) -> None:
    """The name is quoted."""
    assert database_url(url, name) == wanted
