"""Lays out the summary table of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.engine.model.results import PlanResult, StepResult, critical_path
from pytest_plan.report.terminal.instances import Group, folded, span, summary

_HEAD = ("step", "outcome", "duration", "attempts", "cleanup")
_LEAST = 0.01  # seconds of overlap that are worth mentioning
_NOT_BAD = (
    CleanupOutcome.NONE,
    CleanupOutcome.SUCCEEDED,
    CleanupOutcome.PENDING,
    CleanupOutcome.KEPT,
)


def lines(
    steps: Sequence[StepResult],
    result: PlanResult,
    planned: Mapping[str, PlannedStep],
    overlap: float = 0.0,
) -> Iterator[tuple[str, dict[str, bool]]]:
    """Yield the aligned lines of the table, each with its markup for the terminal writer.

    Args:
        steps: the steps to list.
        result: the result of the whole run, which determines the critical path.
        planned: the steps of the plan, of which many instances share a line.
        overlap: for how many seconds tests ran before all steps had ended.
    """
    path = critical_path(result.steps)
    groups = list(folded(steps, lambda step: _template(step, planned)))
    rows = [_row(group, path if len(path) > 1 else ()) for group in groups]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    yield _join(_HEAD, widths), {"bold": True}
    for group, row in zip(groups, rows, strict=True):
        yield _join(row, widths), _markup(group.steps)
    more = f"tests ran during {format_duration(overlap)} of" if overlap >= _LEAST else ""
    if len(path) > 1:
        took = sum(result.steps[name].seconds for name in path)
        text = f"critical path (*): {' > '.join(path)}, {format_duration(took)}"
        yield f"{text}; {more} it" if more else text, {}
    elif more:
        yield f"{more} provisioning", {}


def _row(group: Group[StepResult], path: Sequence[str]) -> tuple[str, ...]:
    steps, labels = group.steps, group.labels
    is_critical = any(step.name in path for step in steps)
    ran = [step.seconds for step in steps if step.started is not None]
    most = max(steps, key=lambda step: len(step.attempts))
    tried = len(most.attempts)
    cleaned = [step.cleanup for step in steps if step.cleanup.outcome is not CleanupOutcome.NONE]
    return (
        f"{group.name}{' *' if is_critical else ''}",
        summary([_outcome(step) for step in steps], labels),
        span(ran) if ran else "",
        f"{tried} of {most.attempts_allowed}" if tried and most.attempts_allowed > 1 else "",
        f"{_cleanup(steps, labels)} {span([one.seconds for one in cleaned])}" if cleaned else "",
    )


def _template(step: StepResult, planned: Mapping[str, PlannedStep]) -> str:
    found = planned.get(step.name)
    return step.name if found is None else found.template


def _outcome(step: StepResult) -> str:
    return step.outcome.value.replace("_", " ") + ("" if step.lost is None else ", lost")


def _cleanup(steps: Sequence[StepResult], labels: Sequence[str]) -> str:
    outcomes = [step.cleanup.outcome.value.replace("_", " ") for step in steps]
    known = [
        (outcome, label)
        for outcome, label in zip(outcomes, labels, strict=True)
        if outcome != CleanupOutcome.NONE.value
    ]
    return summary([outcome for outcome, _ in known], [label for _, label in known])


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _markup(steps: Sequence[StepResult]) -> dict[str, bool]:
    if any(
        step.outcome.is_failure or step.lost is not None or step.cleanup.outcome not in _NOT_BAD
        for step in steps
    ):
        return {"red": True}
    return {} if all(step.outcome.provides for step in steps) else {"yellow": True}
