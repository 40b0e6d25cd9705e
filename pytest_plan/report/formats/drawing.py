"""Computes the layout of the dependency graph: a step's box is below all steps it waits for."""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_plan.report.account import StepAccount

MOST_STEPS = 150  # larger graphs are illegible; `.mmd` reports have no limit
_CHARACTER = 8.2  # width of a character; all lengths are in pixels
_PADDING = 44
_BOX_HEIGHT = 34
_GAP_X, _GAP_Y = 22, 46
_WIDEST = 1080
_MARGIN = 8
_MOST_PASSED = 400  # layers that edges pass through; if there are more, edges may cross boxes


@dataclass(frozen=True, slots=True)
class Box:
    """The box of a step; `x` and `y` are its top left corner."""

    step: StepAccount
    x: float
    y: float
    width: float
    height: float = _BOX_HEIGHT

    @property
    def middle(self) -> float:
        """The x coordinate of the box's center."""
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class Edge:
    """A curve from a step to another step that waits for it.

    Attributes:
        kind: `need` or `order`.
        path: the `d` attribute of an SVG path.
    """

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A graph with its layout."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Spot:
    """The position of a step, or of an edge that passes through a layer; `x` may be negative."""

    x: float
    y: float
    width: float


def draw(steps: Sequence[StepAccount]) -> Drawing | None:
    """Return the layout of the graph, or None for fewer than 2 or more than `MOST_STEPS` steps."""
    if not 2 <= len(steps) <= MOST_STEPS:
        return None
    layers, routes = _layers(steps)
    widths = {step.name: round(_PADDING + _CHARACTER * len(step.name), 1) for step in steps}
    spots = _spots(layers, routes, widths)
    left = _MARGIN - min(spot.x for spot in spots.values())
    boxes = tuple(
        Box(step, round(spot.x + left, 1), spot.y, spot.width)
        for step in steps
        for spot in (spots[step.name],)
    )
    edges = tuple(
        Edge(kind, _curve([spots[key] for key in routes[name, step.name]], left))
        for step in steps
        for kind, names in (("need", step.needs), ("order", step.after))
        for name in names
        if (name, step.name) in routes
    )
    width = max(spot.x + spot.width for spot in spots.values()) + left + _MARGIN
    height = max(spot.y for spot in spots.values()) + _BOX_HEIGHT + _MARGIN
    return Drawing(boxes, edges, round(width), round(height))


_Routes = dict[tuple[str, str], list[str]]


def _layers(steps: Sequence[StepAccount]) -> tuple[list[list[str]], _Routes]:
    """Return the keys in each layer, and the keys that each edge passes through.

    The key of a step is its name. An edge that passes through a layer also gets a key there, which
    reserves room for the edge between the boxes.
    """
    known = {step.name for step in steps}
    edges = {
        step.name: [name for name in (*step.needs, *step.after) if name in known] for step in steps
    }
    depths: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(edges).static_order():
        depths[name] = 1 + max((depths[before] for before in edges[name]), default=-1)
    layers: list[list[str]] = [[] for _ in range(1 + max(depths.values()))]
    for step in steps:
        layers[depths[step.name]].append(step.name)
    pairs = [(before, name) for name, befores in edges.items() for before in befores]
    passed = sum(depths[name] - depths[before] - 1 for before, name in pairs)
    routes: _Routes = {}
    for before, name in pairs:
        between = range(depths[before] + 1, depths[name]) if passed <= _MOST_PASSED else ()
        keys = [f"{before} {name} {depth}" for depth in between]
        for depth, key in zip(between, keys, strict=True):
            layers[depth].append(key)
        routes[before, name] = [before, *keys, name]
    return layers, routes


def _spots(
    layers: Sequence[Sequence[str]], routes: _Routes, widths: Mapping[str, float]
) -> dict[str, _Spot]:
    above: dict[str, list[str]] = {}
    for route in routes.values():
        for upper, lower in pairwise(route):
            above.setdefault(lower, []).append(upper)
    spots: dict[str, _Spot] = {}

    def pull(key: str) -> float:
        # A step is placed below the mean center of the steps that it waits for.
        middles = [spots[name].x + spots[name].width / 2 for name in above.get(key, ())]
        return sum(middles) / len(middles) if middles else 0.0

    y = float(_MARGIN)
    for layer in layers:
        for row in _wrapped(sorted(layer, key=pull), widths):
            x = -(sum(widths.get(key, 0.0) for key in row) + _GAP_X * (len(row) - 1)) / 2
            for key in row:
                spots[key] = _Spot(x, y, widths.get(key, 0.0))
                x += spots[key].width + _GAP_X
            y += _BOX_HEIGHT + _GAP_Y
    return spots


def _wrapped(layer: Sequence[str], widths: Mapping[str, float]) -> Iterator[list[str]]:
    row: list[str] = []
    width = 0.0
    for key in layer:
        if row and width + widths.get(key, 0.0) > _WIDEST:
            yield row
            row, width = [], 0.0
        row.append(key)
        width += widths.get(key, 0.0) + _GAP_X
    yield row


def _curve(spots: Sequence[_Spot], left: float) -> str:
    points = [(round(spot.x + spot.width / 2 + left, 1), spot.y) for spot in spots]
    x, y = points[0]
    path = f"M{x} {y + _BOX_HEIGHT}"
    for (x1, y1), (x2, y2) in pairwise(points):
        bend = (y1 + _BOX_HEIGHT + y2) / 2
        path += f"C{x1} {bend} {x2} {bend} {x2} {y2}V{y2 + _BOX_HEIGHT}"
    return path.rpartition("V")[0]
