"""Steps as a tree of needs."""

from __future__ import annotations

from pytest_plan import GenericStep, Plan
from pytest_plan.report.terminal import tree


def test_long_chain_is_drawn() -> None:
    """The tree has no depth at which it breaks."""
    plan = Plan()
    for number in range(1_500):
        needs = [f"s{number - 1}"] if number else []
        plan.add_step(GenericStep(), name=f"s{number}", needs=needs)
    rows = list(tree.rows(list(plan.linked().values()), can_draw=True))
    assert [row.step.name for row in rows] == [f"s{number}" for number in range(1_500)]
    assert len(rows[-1].branch) == 4 * 1_499


def test_step_with_several_needs_stands_once() -> None:
    """Below the last of them in the order of the plan; the row names the others."""
    plan = Plan()
    for name, needs in {"a": (), "b": (), "both": ("b", "a"), "c": ("a",)}.items():
        plan.add_step(GenericStep(), name=name, needs=needs)
    rows = tree.rows(list(plan.linked().values()), can_draw=False)
    assert [row.branch + row.step.name for row in rows] == ["a", "`-- c", "b", "`-- both"]
