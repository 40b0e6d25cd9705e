"""The graph of needs as boxes and curves: what must be there first stands above."""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_plan.report.account import StepAccount

MOST_STEPS = 150  # larger graphs cannot be read; `.mmd` has them all
_CHARACTER = 8.2
_PADDING = 44
_BOX_HEIGHT = 34
_GAP_X, _GAP_Y = 22, 46
_WIDEST = 1080
_MARGIN = 8


@dataclass(frozen=True, slots=True)
class Box:
    """A step at its place."""

    step: StepAccount
    x: float
    y: float
    width: float
    height: float = _BOX_HEIGHT

    @property
    def middle(self) -> float:
        """The x of its middle."""
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class Edge:
    """A curve from a step to one that waits for it; `kind` is `need` or `order`."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A graph that has been laid out."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    width: float
    height: float


def draw(steps: Sequence[StepAccount]) -> Drawing | None:
    """Return the graph of the steps; None when there are too many, or nothing to show."""
    if not 2 <= len(steps) <= MOST_STEPS:
        return None
    boxes: dict[str, Box] = {}
    y = float(_MARGIN)
    for layer in _layers(steps):
        ordered = sorted(layer, key=lambda step: _pull(step, boxes))
        for row in _wrapped(ordered):
            x = float(_MARGIN)
            for step in row:
                box = boxes[step.name] = Box(step, x, y, _width(step))
                x += box.width + _GAP_X
            y += _BOX_HEIGHT + _GAP_Y
    centred = _centred(boxes)
    width = max(box.x + box.width for box in centred.values()) + _MARGIN
    edges = tuple(edge for step in steps for edge in _edges(step, centred))
    return Drawing(tuple(centred.values()), edges, round(width), round(y - _GAP_Y + _MARGIN))


def _layers(steps: Sequence[StepAccount]) -> list[list[StepAccount]]:
    edges = {step.name: (*step.needs, *step.after) for step in steps}
    depths: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(edges).static_order():
        depths[name] = 1 + max((depths[before] for before in edges.get(name, ())), default=-1)
    layers: list[list[StepAccount]] = [[] for _ in range(1 + max(depths.values()))]
    for step in steps:
        layers[depths[step.name]].append(step)
    return layers


def _pull(step: StepAccount, boxes: Mapping[str, Box]) -> float:
    """Return where a step would like to be: below the middle of what it waits for."""
    above = [boxes[name].middle for name in (*step.needs, *step.after) if name in boxes]
    return sum(above) / len(above) if above else 0.0


def _wrapped(layer: Sequence[StepAccount]) -> Iterator[list[StepAccount]]:
    row: list[StepAccount] = []
    width = 0.0
    for step in layer:
        if row and width + _width(step) > _WIDEST:
            yield row
            row, width = [], 0.0
        row.append(step)
        width += _width(step) + _GAP_X
    yield row


def _centred(boxes: Mapping[str, Box]) -> dict[str, Box]:
    ends: dict[float, float] = {}
    for box in boxes.values():
        ends[box.y] = max(ends.get(box.y, 0.0), box.x + box.width)
    widest = max(ends.values())
    return {
        name: Box(box.step, round(box.x + (widest - ends[box.y]) / 2, 1), box.y, box.width)
        for name, box in boxes.items()
    }


def _edges(step: StepAccount, boxes: Mapping[str, Box]) -> Iterator[Edge]:
    for kind, names in (("need", step.needs), ("order", step.after)):
        for name in names:
            if name in boxes:
                yield Edge(kind, _curve(boxes[name], boxes[step.name]))


def _curve(upper: Box, lower: Box) -> str:
    y1, y2 = upper.y + upper.height, lower.y
    bend = (y1 + y2) / 2
    x1, x2 = round(upper.middle, 1), round(lower.middle, 1)
    return f"M{x1} {y1}C{x1} {bend} {x2} {bend} {x2} {y2}"


def _width(step: StepAccount) -> float:
    return round(_PADDING + _CHARACTER * len(step.name), 1)
