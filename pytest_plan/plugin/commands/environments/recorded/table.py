"""The table in which commands show the steps of an environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_plan.plugin.commands.columns import aligned
from pytest_plan.plugin.commands.environments.recorded.condition import StepCondition

_COLUMNS = ("step", "outcome", "state", "listens on", "log")


def table(steps: Sequence[StepCondition], folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield the lines of the table, and whether each is about a dead step.

    Args:
        steps: the conditions of the steps; there is no table if there are none.
        folder: the folder to which the paths of logs in it are relative.
    """
    rows = [_COLUMNS, *(_row(step, folder) for step in steps)]
    dead = [False, *(step.alive is False for step in steps)]
    yield from zip(aligned(rows), dead, strict=False)


def _row(step: StepCondition, folder: Path) -> tuple[str, ...]:
    state = {None: "unchecked", True: "alive"}.get(step.alive, f"dead: {step.reason}")
    log = "" if step.log is None else str(_shown(step.log, folder))
    is_up = step.cleanup in ("none", "kept")
    outcome = step.outcome if is_up else f"{step.outcome}, cleanup {step.cleanup}"
    return step.name, outcome, state, ", ".join(step.listens), log


def _shown(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path
