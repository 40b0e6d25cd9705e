"""Needs, order edges, cycles."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_plan.engine.definition.graph import closure, link
from pytest_plan.engine.definition.options import check_options
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.definition.signature import hooks_of
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.errors import PlanDefinitionError


def step(
    name: str, *, scope: tuple[str, ...] = (), hooks: dict[str, Any] | None = None, **options: Any
) -> PlannedStep:
    """Return a step that is not linked yet, declared at `conftest.py:<name>`."""
    origin = f"conftest.py:{name}"
    checked = check_options(options, name, origin)
    generic = GenericStep(**(hooks or {}))
    return PlannedStep(name, generic, hooks_of(generic, name), checked, origin, scope)


def linked(*steps: PlannedStep) -> dict[str, PlannedStep]:
    """Link steps in a plan whose hooks may take `config`."""
    return link(steps, {"config"})


def edges(*steps: PlannedStep) -> dict[str, tuple[str, ...]]:
    """Return what each step waits for."""
    return {name: one.edges for name, one in linked(*steps).items()}


class TestEdges:
    """Who waits for whom."""

    def test_a_list_is_a_chain(self) -> None:
        """Each after the one before: fewest edges that imply the rest."""
        assert edges(step("a"), step("b"), step("c")) == {"a": (), "b": ("a",), "c": ("b",)}

    def test_a_step_with_needs_leaves_the_list(self) -> None:
        """It waits for those alone; the next of the list waits for it, too."""
        assert edges(step("a"), step("b"), step("c", needs="a"), step("d")) == {
            "a": (),
            "b": ("a",),
            "c": ("a",),
            "d": ("b", "c"),
        }

    def test_no_needs_wait_for_nothing(self) -> None:
        """`needs=()`, which is not None."""
        assert edges(step("a"), step("b", needs=()))["b"] == ()

    def test_needs_and_parameters_are_united(self) -> None:
        """In that order, each once."""

        def exec(ctx: Any, a: Any, b: Any, config: Any) -> None: ...

        steps = linked(step("a"), step("b"), step("c", needs=["b"], hooks={"exec": exec}))
        assert steps["c"].needs == ("b", "a")
        assert steps["c"].after == ()

    def test_a_parameter_with_a_default_is_a_need_if_there_is_such_a_step(self) -> None:
        """Else its default stays."""

        def exec(a: Any = None, nothing: Any = None) -> None: ...

        assert edges(step("a"), step("b", hooks={"exec": exec}))["b"] == ("a",)

    def test_parameters_of_every_hook_count(self) -> None:
        """Also of cleanup."""

        def cleanup(a: Any, value: Any) -> None: ...

        assert edges(step("a"), step("b", hooks={"cleanup": cleanup}))["b"] == ("a",)

    def test_a_step_may_need_a_later_one(self) -> None:
        """Needs are not bound to the order of declaration."""
        assert edges(step("a", needs="b"), step("b", needs=()))["a"] == ("b",)

    def test_steps_of_a_folder_follow_those_above_it_never_those_beside_it(self) -> None:
        """Scopes are the folders of declaration."""
        found = edges(
            step("root"),
            step("left", scope=("left",)),
            step("right", scope=("right",)),
            step("deep", scope=("left", "deep")),
        )
        assert found["left"] == ("root",)
        assert found["right"] == ("root",)
        assert set(found["deep"]) <= {"root", "left"}
        assert "left" in found["deep"]


class TestRefusals:
    """What cannot be linked."""

    def test_an_unknown_need_suggests_the_nearest(self) -> None:
        """And lists the steps."""
        with pytest.raises(PlanDefinitionError) as caught:
            linked(step("orders"), step("web", needs="order"))
        text = str(caught.value)
        assert "'web' (conftest.py:web) needs 'order'" in text
        assert "did you mean 'orders'?" in text
        assert "orders, web" in text
        assert caught.value.step == "web"

    def test_an_unknown_parameter_lists_the_known(self) -> None:
        """Those of hooks, those of the plan, and the steps."""

        def exec(order: Any) -> None: ...

        with pytest.raises(PlanDefinitionError) as caught:
            linked(step("orders"), step("web", hooks={"exec": exec}))
        text = str(caught.value)
        assert "'web' (conftest.py:web): exec takes 'order'" in text
        assert "did you mean 'orders'" in text
        for name in ("config", "ctx", "state", "orders"):
            assert name in text.partition("known here: ")[2]
        assert (caught.value.step, caught.value.parameter) == ("web", "order")

    @pytest.mark.parametrize("hook", ["pre_exec", "exec"])
    def test_value_is_unknown_before_there_is_one(self, hook: str) -> None:
        """Only post_exec and cleanup take it."""
        with pytest.raises(PlanDefinitionError, match="'value'"):
            linked(step("a", hooks={hook: lambda value: value}))
        for later in ("post_exec", "cleanup"):
            linked(step("a", hooks={later: lambda value: value}))

    def test_a_cycle_is_printed_as_a_path(self) -> None:
        """With the kind of each edge, and the places."""
        with pytest.raises(PlanDefinitionError) as caught:
            linked(step("a", needs="c"), step("b", needs="a"), step("c", needs="b"))
        text = str(caught.value)
        assert any(
            f"'{x}' needs '{y}', which needs '{z}', which needs '{x}'" in text
            for x, y, z in ("acb", "cba", "bac")
        )
        assert "conftest.py:a" in text

    def test_a_cycle_by_the_order_of_the_list_says_so(self) -> None:
        """The first of a list cannot need what comes after it in the same list."""
        with pytest.raises(PlanDefinitionError, match="is listed after"):
            linked(step("a", needs="c"), step("b"), step("c"))

    def test_a_step_that_needs_itself_is_a_cycle(self) -> None:
        """Named, or taken as a parameter."""
        with pytest.raises(PlanDefinitionError, match="'a' needs 'a'"):
            linked(step("a", needs="a"))
        with pytest.raises(PlanDefinitionError, match="'a' needs 'a'"):
            linked(step("a", hooks={"exec": lambda a: a}))


def test_a_closure_follows_both_kinds_of_edges() -> None:
    """It holds every step that must have ended, whether it is needed or only ordered before."""
    steps = linked(step("a"), step("b"), step("c", needs="b"), step("d", needs=()))
    assert closure(["c"], steps) == {"a", "b", "c"}
    assert closure([], steps) == set()


def test_ten_thousand_steps_are_no_recursion() -> None:
    """Neither linking nor the closure is limited by the stack."""
    steps = linked(*(step(f"s{number}") for number in range(10_000)))
    assert len(closure(["s9999"], steps)) == 10_000
