"""The definition of a plan: which names its steps get."""

from __future__ import annotations

import pytest

from pytest_plan.engine.definition.options import RunOptions
from pytest_plan.engine.definition.plan_definition import PlanDefinition
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.errors import PlanDefinitionError


@pytest.fixture
def plan() -> PlanDefinition:
    """A plan without steps."""
    return PlanDefinition(RunOptions(None, False, 1.0, 1, {}))


def declare(plan: PlanDefinition, *full_names: str) -> None:
    """Declare steps with these full names; each is visible in its folder."""
    for full in full_names:
        folder, _, name = full.rpartition("/")
        scope = ("root", *folder.split("/")) if folder else ("root",)
        plan.declare(GenericStep(), name, {}, full, scope=scope, folder=folder)


def test_a_unique_name_is_used_as_it_is(plan: PlanDefinition) -> None:
    """Whatever folder declares the step; its full name finds it."""
    declare(plan, "net", "a/db", "b/web")
    assert list(plan.steps) == ["net", "db", "web"]
    assert [plan.name_of(full) for full in ("net", "a/db", "b/db")] == ["net", "db", None]


def test_steps_of_one_name_get_full_names(plan: PlanDefinition) -> None:
    """The first one as well, in its place."""
    declare(plan, "a/db", "a/web", "b/db", "c/db")
    assert list(plan.steps) == ["a/db", "web", "b/db", "c/db"]
    assert all(name == step.name for name, step in plan.steps.items())
    assert [plan.name_of(full) for full in ("a/db", "c/db")] == ["a/db", "c/db"]


def test_a_settled_name_stays(plan: PlanDefinition) -> None:
    """The step may have begun; only later steps get full names."""
    declare(plan, "a/db")
    plan.settle()
    declare(plan, "b/db", "c/db")
    assert list(plan.steps) == ["db", "b/db", "c/db"]
    assert plan.name_of("a/db") == "db"


@pytest.mark.parametrize("names", [("a/db", "a/deep/db"), ("a/deep/db", "a/db"), ("a/db", "db")])
def test_names_that_are_visible_together(plan: PlanDefinition, names: tuple[str, ...]) -> None:
    """They are an error, whichever is declared first."""
    with pytest.raises(PlanDefinitionError, match=r"two steps are called 'db': .* rename one"):
        declare(plan, "other/db", *names)


def test_steps_that_are_set_aside(plan: PlanDefinition) -> None:
    """They take no name from the plan until a folder that sees them is part of it."""
    with plan.setting_aside():
        declare(plan, "b/db", "b/deep/web")
    declare(plan, "a/db")
    assert list(plan.steps) == ["db"]
    plan.include(("root", "b"))
    assert list(plan.steps) == ["a/db", "b/db"]
    assert list(plan.set_aside) == ["b/deep/web"]


def test_a_step_below_one_that_was_set_aside(plan: PlanDefinition) -> None:
    """It is declared after the step above it, as if that had never been set aside."""
    with plan.setting_aside():
        declare(plan, "b/db")
    declare(plan, "b/deep/web")
    assert list(plan.steps) == ["db", "web"]
    assert plan.linked()["web"].after == ("db",)


def test_needs_and_skips_of_steps_of_one_name(plan: PlanDefinition) -> None:
    """A need is the visible step; a name that could mean several skips nothing."""
    declare(plan, "a/db", "b/db")
    for folder in "ab":
        step = GenericStep(exec=lambda db: None)
        plan.declare(step, f"web_{folder}", {}, "here", scope=("root", folder), folder=folder)
    plan.skip("db", "ambiguous")
    plan.skip("a/db", "wanted")
    linked = plan.linked()
    assert [linked[f"web_{folder}"].needs for folder in "ab"] == [("a/db",), ("b/db",)]
    assert [linked[name].options.skip for name in ("a/db", "b/db")] == ["wanted", None]


def test_a_plan_without_tests_refuses_after_tests(plan: PlanDefinition) -> None:
    """In pytest, where a plan runs for tests, `refusal` is set and the step is accepted."""
    with pytest.raises(PlanDefinitionError, match=r"'up' \(here\): after_tests needs tests, and"):
        plan.declare(GenericStep(), "up", {"after_tests": True}, "here")
    plan.refusal = "pytest runs the plan"
    plan.declare(GenericStep(), "up", {"after_tests": True}, "here")
