"""The HTML report of a very large run: how long it takes to write, to open, and its size."""

from __future__ import annotations

import importlib.util
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.report.account import (
    Account,
    AttemptAccount,
    CleanupAccount,
    StepAccount,
    TestAccount,
)
from tests.benchmarks.measure import Row, seconds
from tests.report.support import browser

STEPS, TESTS, WORKERS = 2_000, 20_000, 8
REPEATS = 5
MEGA = 1e6
TARGET_WRITE = 3.0
TARGET_SIZE = 5.0
TARGET_PAINT = 1.5
_WHAT = f"HTML report, {STEPS:,} steps, {TESTS:,} tests"


def rows() -> Iterator[Row]:
    """Measure, and return the lines of the table."""
    if importlib.util.find_spec("jinja2") is None:
        yield Row(_WHAT, "s", note="Jinja2 is not installed")
        return
    from pytest_plan.report.formats import html

    run = large_run()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "plan.html"
        html.text(run)

        def write() -> None:
            path.write_text(html.text(run), encoding="utf-8")

        written = [seconds(write) for _ in range(REPEATS)]
        yield Row(f"{_WHAT}: written", "s", written, TARGET_WRITE, judged="max")
        yield Row(f"{_WHAT}: size", "MB", [path.stat().st_size / MEGA], TARGET_SIZE)
        yield _paint(path, Path(name) / "profile")


def _paint(path: Path, profile: Path) -> Row:
    what = f"{_WHAT}: first paint in Chromium"
    program = browser.find()
    if program is None:
        return Row(what, "s", note="no Chromium on this machine")
    with browser.Browser(program, profile) as page:
        page.look(1600)
        samples = [_first_paint(page, path) for _ in range(REPEATS)]
    return Row(what, "s", samples, TARGET_PAINT, judged="max")


def _first_paint(page: browser.Browser, path: Path) -> float:
    page.open(path)
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    deadline = time.monotonic() + browser.PATIENCE
    while (found := page.ask(paint)) is None:
        assert time.monotonic() < deadline, "the page is never painted"
    return float(found) / 1e3


def large_run() -> Account:
    """Return a run whose steps need, fail, retry and log as those of a real one do."""
    chance = random.Random(1)
    steps = [_step(number, chance) for number in range(STEPS)]
    ready = max((step.started or 0.0) + step.seconds for step in steps)
    tests = [_test(number, ready, chance) for number in range(TESTS)]
    ended = max(test.started + test.seconds for test in tests)
    return Account(
        run_id="1f0c9a3e",
        environment="run-1f0c9a3e",
        outcome=StepOutcome.FAILED,
        reason=None,
        limit=3_600.0,
        seconds=ended + 100.0,
        began_at=1_790_000_000.0,
        cleanup_began=ended,
        steps=tuple(steps),
        tests=tuple(tests),
        critical_path=tuple(step.name for step in steps[::100]),
    )


def _step(number: int, chance: random.Random) -> StepAccount:
    fails, retries = number % 50 == 49, number % 20 == 7
    started, took = number * 0.05, chance.uniform(0.1, 2.0)
    needs = tuple({f"step_{chance.randrange(number):04}" for _ in range(min(number, 3))})
    error = "RuntimeError: the server did not answer"
    attempts = [AttemptAccount(1, "exec", started, took, error if fails or retries else None)]
    if retries:
        attempts = [
            AttemptAccount(1, "exec", started, took / 3, error),
            AttemptAccount(2, "exec", started + took / 2, took / 2, None),
        ]
    lines = 30 if fails else 5
    return StepAccount(
        name=f"step_{number:04}",
        outcome=StepOutcome.FAILED if fails else StepOutcome.SUCCEEDED,
        reason=error if fails else None,
        needs=needs,
        after=(),
        origin=f"tests/integration/conftest.py:{number}",
        started=started,
        seconds=took,
        attempts=tuple(attempts),
        attempts_allowed=2 if retries else 1,
        cleanup=CleanupAccount(CleanupOutcome.SUCCEEDED, 3_400.0 - started, 0.1, None),
        error="\n".join(f"conftest.py:{line}: in connect" for line in range(20)) if fails else "",
        log="\n".join(f"2026-01-01 00:00:00 INFO line {line} of a log" for line in range(lines)),
        is_critical=number % 100 == 0,
    )


def _test(number: int, ready: float, chance: random.Random) -> TestAccount:
    return TestAccount(
        node_id=f"tests/integration/test_orders.py::TestOrders::test_order[{number}-customer]",
        worker=f"gw{number % WORKERS}",
        started=ready + number // WORKERS * 0.1,
        seconds=chance.uniform(0.01, 0.1),
        outcome="failed" if number % 97 == 0 else "passed",
        message="AssertionError: assert 1 == 2" if number % 97 == 0 else "",
    )
