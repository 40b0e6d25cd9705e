"""The steps as a tree: each below the last of the steps that it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_plan.engine.definition.planned import PlannedStep

LINES = "├└─│"
_ASCII = str.maketrans(LINES, "|`-|")


class Row(NamedTuple):
    """A step in the tree.

    Attributes:
        step: the step.
        branch: the lines before its name.
        below: the lines before what is said below its name.
    """

    step: PlannedStep
    branch: str
    below: str


def rows(steps: Sequence[PlannedStep], can_draw: bool) -> Iterator[Row]:
    """Return the steps in the order of the tree; of equal rank, in the order of the plan.

    A step that needs nothing stands at the left, also when it is ordered after another: a plan
    that is a list looks like one.

    Args:
        steps: in the order of the plan.
        can_draw: whether lines may be drawn with other characters than those of ASCII.
    """
    ranks = {step.name: rank for rank, step in enumerate(steps)}
    children: dict[str | None, list[PlannedStep]] = {}
    for step in steps:
        parent = max(step.needs, key=ranks.__getitem__, default=None)
        children.setdefault(parent, []).append(step)
    waiting = [(step, "", "") for step in reversed(children.get(None, []))]
    while waiting:
        step, branch, stem = waiting.pop()
        below = children.get(step.name, [])
        row = Row(step, branch, f"{stem}│" if below else stem)
        yield row if can_draw else _in_ascii(row)
        for child in reversed(below):
            is_last = child is below[-1]
            branch, inner = ("└── ", "    ") if is_last else ("├── ", "│   ")
            waiting.append((child, stem + branch, stem + inner))


def _in_ascii(row: Row) -> Row:
    return Row(row.step, row.branch.translate(_ASCII), row.below.translate(_ASCII))
