"""The tree of steps."""

from __future__ import annotations

from pytest_plan import GenericStep, Plan
from pytest_plan.engine.plan import definition_of
from pytest_plan.report.terminal import tree


def test_long_chain_is_drawn() -> None:
    """The depth of the tree is not limited."""
    plan = Plan()
    for number in range(1_500):
        needs = [f"s{number - 1}"] if number else []
        plan.add_step(GenericStep(), name=f"s{number}", needs=needs)
    rows = list(tree.rows(list(definition_of(plan).linked().values()), can_draw=True))
    assert [row.step.name for row in rows] == [f"s{number}" for number in range(1_500)]
    assert len(rows[-1].branch) == 4 * 1_499


def test_step_with_several_needs_is_drawn_once() -> None:
    """A step is drawn once, below the last of its needs in the order of the plan."""
    plan = Plan()
    for name, needs in {"a": (), "b": (), "both": ("b", "a"), "c": ("a",)}.items():
        plan.add_step(GenericStep(), name=name, needs=needs)
    rows = tree.rows(list(definition_of(plan).linked().values()), can_draw=False)
    assert [row.branch + row.step.name for row in rows] == ["a", "`-- c", "b", "`-- both"]
