"""Arranges the steps as a tree: each step is below the last of the steps that it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_plan.engine.definition.planned import PlannedStep

LINES = "├└─│"
_ASCII = str.maketrans(LINES, "|`-|")


class Row(NamedTuple):
    """A row of the tree.

    Attributes:
        step: the step.
        branch: the lines drawn before its name.
        below: the lines drawn before the text below its name.
    """

    step: PlannedStep
    branch: str
    below: str


def rows(steps: Sequence[PlannedStep], can_draw: bool) -> Iterator[Row]:
    """Yield a row for each step in the order of the tree; siblings are in the order of the plan.

    Order edges do not indent: a step without needs starts at the left margin, so a plan that is a
    plain list looks like a list.

    Args:
        steps: the steps in the order of the plan.
        can_draw: whether the lines may use the characters of `LINES`; otherwise they are ASCII.
    """
    ranks = {step.name: rank for rank, step in enumerate(steps)}
    children: dict[str | None, list[PlannedStep]] = {}
    for step in steps:
        parent = max(step.needs, key=ranks.__getitem__, default=None)
        children.setdefault(parent, []).append(step)
    waiting = [(step, "", "") for step in reversed(children.get(None, []))]
    while waiting:
        step, branch, stem = waiting.pop()
        nested = children.get(step.name, [])
        row = Row(step, branch, f"{stem}│" if nested else stem)
        yield row if can_draw else _in_ascii(row)
        for child in reversed(nested):
            is_last = child is nested[-1]
            branch, inner = ("└── ", "    ") if is_last else ("├── ", "│   ")
            waiting.append((child, stem + branch, stem + inner))


def _in_ascii(row: Row) -> Row:
    return Row(row.step, row.branch.translate(_ASCII), row.below.translate(_ASCII))
