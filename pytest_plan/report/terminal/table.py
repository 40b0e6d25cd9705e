"""Lays out the summary table of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.engine.model.results import PlanResult, StepResult, critical_path

_HEAD = ("step", "outcome", "duration", "attempts", "cleanup")


def lines(steps: Sequence[StepResult], result: PlanResult) -> Iterator[tuple[str, dict[str, bool]]]:
    """Yield the aligned lines of the table, each with its markup for the terminal writer.

    Args:
        steps: the steps to list.
        result: the result of the whole run, which determines the critical path.
    """
    path = critical_path(result.steps)
    rows = [_row(step, is_critical=step.name in path and len(path) > 1) for step in steps]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    yield _join(_HEAD, widths), {"bold": True}
    for step, row in zip(steps, rows, strict=True):
        yield _join(row, widths), _markup(step)
    if len(path) > 1:
        took = sum(result.steps[name].seconds for name in path)
        yield f"critical path (*): {' > '.join(path)}, {format_duration(took)}", {}


def _row(step: StepResult, *, is_critical: bool) -> tuple[str, ...]:
    ran = step.started is not None
    cleanup = step.cleanup
    return (
        f"{step.name}{' *' if is_critical else ''}",
        step.outcome.value.replace("_", " ") + ("" if step.lost is None else ", lost"),
        format_duration(step.seconds) if ran else "",
        f"{len(step.attempts)} of {step.attempts_allowed}" if step.attempts_allowed > 1 else "",
        ""
        if cleanup.outcome is CleanupOutcome.NONE
        else f"{cleanup.outcome.value.replace('_', ' ')} {format_duration(cleanup.seconds)}",
    )


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _markup(step: StepResult) -> dict[str, bool]:
    cleaned = (CleanupOutcome.NONE, CleanupOutcome.SUCCEEDED, CleanupOutcome.PENDING)
    if step.outcome.is_failure or step.lost is not None or step.cleanup.outcome not in cleaned:
        return {"red": True}
    return {} if step.outcome.provides else {"yellow": True}
