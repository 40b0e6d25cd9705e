"""What the engine costs beside the work: steps that do nothing, one after the other."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import statistics
from collections.abc import Iterator

from pytest_plan import GenericStep, Plan
from tests.benchmarks.measure import Row, interleave, seconds

FEW, MANY = 1_000, 10_000
REPEATS = 25
TASKFLOW_REPEATS = 3  # each takes seconds
RATIO_REPEATS = 9
MICRO = 1e6
TARGET_MICROSECONDS = 60.0
TARGET_RATIO = 1.3


def rows() -> Iterator[Row]:
    """Measure, and return the lines of the table."""
    per_step, adding, stack = interleave([_execute, _add, _exit_stack], REPEATS)
    what = f"engine, per empty step of {FEW:,} in a list: execute()"
    yield Row(what, "µs", per_step, TARGET_MICROSECONDS)
    yield Row("the same: add_step()", "µs", adding)
    yield Row("beside it: contextlib.ExitStack", "µs", stack)
    ratios = [_ratio() for _ in range(RATIO_REPEATS)]
    yield Row(f"execute(): per step of {MANY:,} / of {FEW:,}", "x", ratios, TARGET_RATIO)
    # Last: each full garbage collection would go through all that taskflow imports, too.
    yield _taskflow()


def _nothing() -> None:
    """Do nothing."""


def _plan(steps: int) -> Plan:
    plan = Plan()
    for _ in range(steps):
        plan.add_step(GenericStep(exec=_nothing))
    return plan


def _execute(steps: int = FEW) -> float:
    plan = _plan(steps)
    return seconds(plan.execute) / steps * MICRO


def _add() -> float:
    return seconds(lambda: _plan(FEW)) / FEW * MICRO


def _exit_stack() -> float:
    def run() -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(FEW):
                _nothing()
                stack.callback(_nothing)

    return seconds(run) / FEW * MICRO


def _taskflow() -> Row:
    what = "beside it: OpenStack taskflow, linear flow, serial engine: run()"
    if importlib.util.find_spec("taskflow") is None:
        return Row(what, "µs", note="not installed")
    (samples,) = interleave([_linear_flow], TASKFLOW_REPEATS)
    return Row(what, "µs", samples)


def _linear_flow() -> float:
    # By name: it is no dependency, so neither linters nor type checkers need to find it.
    engines, patterns, task = (
        importlib.import_module(f"taskflow.{name}")
        for name in ("engines", "patterns.linear_flow", "task")
    )
    flow = patterns.Flow("benchmark")
    for number in range(FEW):
        flow.add(task.FunctorTask(_nothing, name=f"task-{number}"))
    engine = engines.load(flow, engine="serial")
    return seconds(engine.run) / FEW * MICRO


def _ratio() -> float:
    """Return one ratio: the long plan between two halves of the short ones."""
    before = [_execute() for _ in range(5)]
    many = _execute(MANY)
    return many / statistics.median(before + [_execute() for _ in range(5)])
