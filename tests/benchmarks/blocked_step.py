"""How soon a step that waits is in its cleanup, when the plan must stop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from pytest_plan import Context, GenericStep, Plan, PlanCancelledError, PlanTimeoutError
from tests.benchmarks.measure import Row

REPEATS = 50
SETTLE = 0.02  # seconds for the step to be asleep
TARGET_MILLISECONDS = 50.0
MILLI = 1e3


def rows() -> Iterator[Row]:
    """Measure, and return the lines of the table."""
    for what, measure in (("cancel()", _cancel), ("limit", _limit)):
        samples = [measure() * MILLI for _ in range(REPEATS)]
        yield Row(
            f"{what} until a blocked ctx.sleep step is in cleanup",
            "ms",
            samples,
            TARGET_MILLISECONDS,
            judged="max",
        )


def _cancel() -> float:
    asleep = threading.Event()
    begun = cleaned = 0.0

    def block(ctx: Context) -> None:
        asleep.set()
        ctx.sleep("1h")

    def cleanup() -> None:
        nonlocal cleaned
        cleaned = time.monotonic()

    def cancel() -> None:
        nonlocal begun
        asleep.wait()
        time.sleep(SETTLE)
        begun = time.monotonic()
        plan.cancel()

    plan = Plan().add_step(GenericStep(exec=block, cleanup=cleanup), cleanup_when="attempted")
    other = threading.Thread(target=cancel)
    other.start()
    with contextlib.suppress(PlanCancelledError):
        plan.execute()
    other.join()
    return cleaned - begun


def _limit() -> float:
    deadline = cleaned = 0.0

    def block(ctx: Context) -> None:
        nonlocal deadline
        assert ctx.deadline is not None
        deadline = ctx.deadline
        ctx.sleep("1h")

    def cleanup() -> None:
        nonlocal cleaned
        cleaned = time.monotonic()

    plan = Plan(SETTLE)
    plan.add_step(GenericStep(exec=block, cleanup=cleanup), cleanup_when="attempted")
    with contextlib.suppress(PlanTimeoutError):
        plan.execute()
    return cleaned - deadline
