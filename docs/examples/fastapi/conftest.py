"""Starts PostgreSQL, migrates its database and starts the API, once per run."""

import sys
from pathlib import Path

import httpx
import pytest

from pytest_plan.steps import PostgreSQL, http, service

HERE = Path(__file__).parent


@pytest.mark.plan_step
class Postgres(PostgreSQL):
    """The step `postgres`: the URL of a database. If DATABASE_URL is set, it is that one."""

    attach = "DATABASE_URL"


def migrate(ctx, database, direction, target):
    command = [sys.executable, "-m", "alembic", direction, target]
    ctx.run(command, cwd=HERE, env={"DATABASE_URL": database})


def remove_tables(ctx, postgres):
    migrate(ctx, postgres, "downgrade", "base")


@pytest.mark.plan_step(
    inputs="migrations/versions/*.py",
    timeout="60s",
    cleanup=remove_tables,
    cleanup_when="attempted",
)
def tables(ctx, postgres):
    """The tables of the library, as the migrations create them."""
    migrate(ctx, postgres, "upgrade", "head")


@pytest.mark.plan_step(needs=["tables"], inputs="library.py", timeout="60s")
def api(ctx, postgres):
    """The URL of the API."""
    command = [sys.executable, "-m", "uvicorn", "library:app", "--port", "{port}"]
    environment = {"DATABASE_URL": postgres}
    return service(ctx, command, cwd=HERE, env=environment, ready=http("/health")).url


@pytest.fixture
def client(api):
    """A client for one test."""
    with httpx.Client(base_url=api) as client:
        yield client
