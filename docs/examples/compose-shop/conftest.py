"""Starts the services of `docker-compose.yml` once per run."""

from pathlib import Path

import pytest
from stock import TABLE, open_stock

from pytest_plan.steps import compose


@pytest.mark.plan_step(inputs="docker-compose.yml", timeout="5m")
def services(ctx):
    """The containers by service. The code under test finds the servers in two variables."""
    stack = compose(ctx, Path(__file__).with_name("docker-compose.yml"))
    db, cache = stack["db"], stack["cache"]
    ctx.setenv("DATABASE_URL", f"postgresql://shop:not-a-secret@{db.host}:{db.port}/shop")
    ctx.setenv("REDIS_URL", f"redis://{cache.host}:{cache.port}")
    return stack


def drop_table():
    with open_stock() as stock:
        stock.database.execute("DROP TABLE IF EXISTS stock")


@pytest.mark.plan_step(needs=["services"], cleanup=drop_table)
def table():
    """The table of the stock."""
    with open_stock() as stock:
        stock.database.execute(TABLE)


@pytest.fixture
def stock(table):
    """The stock, opened as in production."""
    with open_stock() as stock:
        yield stock
