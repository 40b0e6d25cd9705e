"""The project that the pictures show; its steps wait instead of starting servers."""

from pathlib import Path

COMMAND = "pytest --plan-jobs 3 --plan-continue-on-error --plan-report plan.html"

_CONFTEST = """
import time

import pytest


@pytest.mark.plan_step(needs=())
def network():
    time.sleep(0.4)
    yield "shop-net"
    time.sleep(0.2)


@pytest.mark.plan_step(needs=["network"])
def database(ctx):
    for table in ("customers", "orders", "lamps"):
        time.sleep(0.5)
        ctx.log(f"restored {table}")
    yield "postgresql://127.0.0.1:5432/shop"
    time.sleep(0.4)


@pytest.mark.plan_step(needs=["network"])
def sessions():
    time.sleep(0.9)
    yield "redis://127.0.0.1:6379"
    time.sleep(0.2)


@pytest.mark.plan_step(needs=["database"], retries=2, retry_wait="0.4s")
def schema(ctx):
    time.sleep(0.6)
    if ctx.attempt == 1:
        raise ConnectionError("deadlock detected")
    return 42


@pytest.mark.plan_step(needs=["network"], retries=1, retry_wait="0.5s")
def search(ctx):
    for shard in range(3):
        time.sleep(0.4)
        ctx.log(f"shard {shard}: {120 * (shard + 1)} of 420 documents")
    (ctx.artifacts / "cluster.json").write_text('{"status": "yellow"}')
    wait_for_green(ctx)


def wait_for_green(ctx):
    raise ConnectionError("the index is yellow: 2 of 3 shards")


@pytest.mark.plan_step(needs=["schema", "sessions"])
def api():
    time.sleep(0.7)
    yield "http://127.0.0.1:8080"
    time.sleep(0.3)
"""

_TESTS = """
import time

import pytest


@pytest.mark.parametrize("lamp", range(24))
def test_order(api, lamp):
    time.sleep(0.02 + lamp % 5 * 0.02)
    assert lamp != 17, "lamp 17 is not in the catalog"


@pytest.mark.parametrize("word", ["lamp", "desk", "sofa"])
def test_find(search, word):
    assert word


def test_prices(api):
    assert api
"""


def write(folder: Path) -> None:
    """Write the project into an empty folder."""
    (folder / "conftest.py").write_text(_CONFTEST.lstrip())
    (folder / "test_shop.py").write_text(_TESTS.lstrip())
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --no-header --tb=short\n")
