"""The HTML report of a large run.

The report covers 20,000 tests in eight workers and 2,000 steps, some of which fail or are retried.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_plan.report.account import AttemptAccount
from tests.benchmarks.table import Row, at_most
from tests.report.support.accounts import account, cleanup, failed, ran, step

STEPS, TESTS, WORKERS = 2_000, 20_000, 8
MOST_MEGABYTES = 5
_ERROR = "RuntimeError: the server did not answer"


def rows(_other: Path | None) -> Iterator[Row]:
    """Write the report and yield the row; nothing is compared with another checkout."""
    what = "size"
    if importlib.util.find_spec("jinja2") is None:
        yield Row(what, "needs the extra `report`")
        return
    from pytest_plan.report.formats import html

    chance = random.Random(1)
    steps = [_step(number, chance) for number in range(STEPS)]
    tests = tuple(_test(number, chance) for number in range(TESTS))
    text = html.text(account(*steps, tests=tests))
    yield at_most(what, "MB", [len(text.encode())], MOST_MEGABYTES, 1e6)


def _step(number: int, chance: random.Random) -> Any:
    fails = number % 50 == 49
    more: dict[str, Any] = {
        "started": number * 0.05,
        "seconds": chance.uniform(0.1, 2.0),
        "needs": tuple({_name(chance.randrange(number)) for _ in range(min(number, 3))}),
        "cleanup": cleanup(),
        "log": "\n".join(
            f"2026-01-01 00:00:00 INFO line {line} of a log" for line in range(30 if fails else 5)
        ),
        "is_critical": number % 100 == 0,
    }
    if number % 20 == 7:
        attempts = (
            AttemptAccount(1, "exec", 0.0, 0.1, _ERROR),
            AttemptAccount(2, "exec", 0.2, 0.1, None),
        )
        more.update(attempts=attempts, attempts_allowed=2)
    return failed(_name(number), **more) if fails else step(_name(number), **more)


def _name(number: int) -> str:
    return f"step_{number:04}"


def _test(number: int, chance: random.Random) -> Any:
    fails = number % 97 == 0
    return ran(
        f"tests/integration/test_orders.py::TestOrders::test_order[{number}-customer]",
        "failed" if fails else "passed",
        f"gw{number % WORKERS}",
        started=110.0 + number // WORKERS * 0.1,
        seconds=chance.uniform(0.01, 0.1),
        message="AssertionError: assert 1 == 2" if fails else "",
    )
