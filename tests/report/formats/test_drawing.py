"""The layout of the dependency graph in the HTML report."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from pytest_plan.report.account import StepAccount
from pytest_plan.report.formats import drawing
from tests.report.support.accounts import step


def shapes(*steps: StepAccount) -> drawing.Drawing:
    """Return the layout of some steps."""
    drawn = drawing.draw(steps)
    assert drawn is not None
    return drawn


def many(count: int) -> list[StepAccount]:
    """Return steps that each need up to two others."""
    return [
        step(f"s{n}", needs=tuple({f"s{n // 2}", f"s{n // 3}"} - {f"s{n}"})) for n in range(count)
    ]


@pytest.mark.parametrize("count", [2, 10, drawing.MOST_STEPS])
def test_boxes_neither_overlap_nor_leave_the_picture(count: int) -> None:
    """No two boxes touch, and every box is inside the picture."""
    drawn = shapes(*many(count))
    assert len(drawn.boxes) == count
    for box in drawn.boxes:
        assert 0 <= box.x <= drawn.width - box.width
        assert 0 <= box.y <= drawn.height - box.height
    rows: dict[float, list[drawing.Box]] = {}
    for box in drawn.boxes:
        rows.setdefault(box.y, []).append(box)
    for row in rows.values():
        row.sort(key=lambda box: box.x)
        assert all(a.x + a.width < b.x for a, b in pairwise(row))


def test_needs_are_drawn_above() -> None:
    """Each step is below the steps it needs, even if they are declared later."""
    drawn = shapes(step("web", needs=("db",)), step("db", after=("net",)), step("net"))
    heights = {box.step.name: box.y for box in drawn.boxes}
    assert heights["net"] < heights["db"] < heights["web"]
    assert [edge.kind for edge in drawn.edges] == ["need", "order"]


def test_long_edge_does_not_cross_boxes() -> None:
    """An edge across several layers does not run through the box of another step."""
    drawn = shapes(step("a"), step("b", needs=("a",)), step("c", needs=("b", "a")))
    b = next(box for box in drawn.boxes if box.step.name == "b")
    long = max((edge.path for edge in drawn.edges), key=len)
    points = [tuple(map(float, point.split())) for point in re.findall(r"[\d.]+ [\d.]+(?=V)", long)]
    assert [y for _, y in points] == [b.y]
    assert not b.x <= points[0][0] <= b.x + b.width


@pytest.mark.parametrize("count", [0, 1, drawing.MOST_STEPS + 1])
def test_too_few_and_too_many_are_not_drawn(count: int) -> None:
    """No graph is drawn for fewer than two or more than `MOST_STEPS` steps."""
    assert drawing.draw(many(count)) is None


def test_long_list_is_drawn() -> None:
    """Steps in a list are drawn one below the other."""
    steps = [step("s0"), *(step(f"s{n}", after=(f"s{n - 1}",)) for n in range(1, 100))]
    assert len({box.y for box in shapes(*steps).boxes}) == 100
