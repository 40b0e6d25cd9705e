"""Needs, order edges and cycles."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_plan.engine.definition.graph import closure, link, longest_first, ranks
from pytest_plan.engine.definition.options import check_options
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.definition.signature import hooks_of
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.errors import PlanDefinitionError


def step(
    name: str, *, scope: tuple[str, ...] = (), hooks: dict[str, Any] | None = None, **options: Any
) -> PlannedStep:
    """Return a step without edges, declared at `conftest.py:<name>`."""
    origin = f"conftest.py:{name}"
    checked = check_options(options, name, origin)
    generic = GenericStep(**(hooks or {}))
    return PlannedStep(name, generic, hooks_of(generic, name), checked, origin, scope)


def linked(*steps: PlannedStep) -> dict[str, PlannedStep]:
    """Link the steps of a plan that has the parameter `config`."""
    return link(steps, {"config"})


def edges(*steps: PlannedStep) -> dict[str, tuple[str, ...]]:
    """Return the names of the steps that each step waits for."""
    return {name: one.edges for name, one in linked(*steps).items()}


class TestEdges:
    """Which step waits for which."""

    def test_a_list_is_a_chain(self) -> None:
        """Each step is ordered after the one before; the fewest edges imply all others."""
        assert edges(step("a"), step("b"), step("c")) == {"a": (), "b": ("a",), "c": ("b",)}

    def test_a_step_with_needs_leaves_the_list(self) -> None:
        """It waits only for its needs, and the next step of the list waits for it as well."""
        assert edges(step("a"), step("b"), step("c", needs="a"), step("d")) == {
            "a": (),
            "b": ("a",),
            "c": ("a",),
            "d": ("b", "c"),
        }

    def test_a_step_with_empty_needs_waits_for_nothing(self) -> None:
        """`needs=()` differs from the default, None."""
        assert edges(step("a"), step("b", needs=()))["b"] == ()

    def test_needs_and_parameters_are_combined(self) -> None:
        """The named needs come first, and no need is listed twice."""

        def exec(ctx: Any, a: Any, b: Any, config: Any) -> None: ...

        steps = linked(step("a"), step("b"), step("c", needs=["b"], hooks={"exec": exec}))
        assert steps["c"].needs == ("b", "a")
        assert steps["c"].after == ()

    def test_a_parameter_with_a_default_is_not_a_need(self) -> None:
        """It keeps its default even if a step has that name."""

        def exec(a: Any = None, nothing: Any = None) -> None: ...

        steps = linked(step("a"), step("b", hooks={"exec": exec}))
        assert (steps["b"].needs, steps["b"].after) == ((), ("a",))

    def test_parameters_of_every_hook_count(self) -> None:
        """A step taken by `cleanup` is a need."""

        def cleanup(a: Any, value: Any) -> None: ...

        assert edges(step("a"), step("b", hooks={"cleanup": cleanup}))["b"] == ("a",)

    def test_a_step_may_need_a_later_one(self) -> None:
        """Needs do not depend on the order of declaration."""
        assert edges(step("a", needs="b"), step("b", needs=()))["a"] == ("b",)

    def test_steps_of_a_folder_follow_those_of_its_parents_but_not_of_its_siblings(self) -> None:
        """The scope of a step is the folder of its declaration."""
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
    """Plans that cannot be linked."""

    def test_an_unknown_need_gets_a_suggestion(self) -> None:
        """The message also lists all steps."""
        with pytest.raises(PlanDefinitionError) as caught:
            linked(step("orders"), step("web", needs="order"))
        text = str(caught.value)
        assert "'web' (conftest.py:web) needs an unknown step 'order'" in text
        assert "did you mean 'orders'?" in text
        assert "orders, web" in text
        assert caught.value.step == "web"

    def test_an_unknown_parameter_lists_the_available_ones(self) -> None:
        """The list has the hook's own parameters, those of the plan, and the steps."""

        def exec(order: Any) -> None: ...

        with pytest.raises(PlanDefinitionError) as caught:
            linked(step("orders"), step("web", hooks={"exec": exec}))
        text = str(caught.value)
        assert "'web' (conftest.py:web): exec has an unknown parameter 'order'" in text
        assert "did you mean 'orders'" in text
        for name in ("config", "ctx", "state", "orders"):
            assert name in text.partition("available: ")[2]
        assert (caught.value.step, caught.value.parameter) == ("web", "order")

    @pytest.mark.parametrize("hook", ["pre_exec", "exec"])
    def test_value_is_unknown_before_exec_has_returned(self, hook: str) -> None:
        """Only the later hooks can take `value`."""
        with pytest.raises(PlanDefinitionError, match="'value'"):
            linked(step("a", hooks={hook: lambda value: value}))
        for later in ("post_exec", "cleanup"):
            linked(step("a", hooks={later: lambda value: value}))

    def test_a_cycle_is_printed_as_a_path(self) -> None:
        """The message has the kind of each edge and where the steps are declared."""
        with pytest.raises(PlanDefinitionError) as caught:
            linked(step("a", needs="c"), step("b", needs="a"), step("c", needs="b"))
        text = str(caught.value)
        assert any(
            f"'{x}' needs '{y}', which needs '{z}', which needs '{x}'" in text
            for x, y, z in ("acb", "cba", "bac")
        )
        assert "conftest.py:a" in text

    def test_a_cycle_through_an_order_edge_says_so(self) -> None:
        """A step cannot need a later step that keeps its place in the same list."""
        with pytest.raises(PlanDefinitionError, match="is declared after"):
            linked(step("a", needs="c"), step("b"), step("c"))

    def test_a_step_that_needs_itself_is_a_cycle(self) -> None:
        """The step may be named in `needs` or taken as a parameter."""
        with pytest.raises(PlanDefinitionError, match="'a' needs 'a'"):
            linked(step("a", needs="a"))
        with pytest.raises(PlanDefinitionError, match="'a' needs 'a'"):
            linked(step("a", hooks={"exec": lambda a: a}))


def test_a_closure_follows_both_kinds_of_edges() -> None:
    """The closure has every step that must have ended before, by needs and by order edges."""
    steps = linked(step("a"), step("b"), step("c", needs="b"), step("d", needs=()))
    assert closure(["c"], steps) == {"a", "b", "c"}
    assert closure([], steps) == set()


def test_ten_thousand_steps_do_not_exceed_the_recursion_limit() -> None:
    """Neither linking nor the closure is recursive."""
    steps = linked(*(step(f"s{number}") for number in range(10_000)))
    assert len(closure(["s9999"], steps)) == 10_000


class TestStepsAfterTests:
    """How often tests come before a step, and which plans leave that open."""

    def test_the_rank_counts_the_steps_that_wait_for_tests(self) -> None:
        """Needs and order edges both count, the longest path wins, and other steps have rank 0."""
        steps = linked(
            step("app"),
            step("upgraded", needs="app", after_tests=True),
            step("cache", needs=()),
            step("report", needs=("cache", "upgraded")),
            step("again", needs=("report", "app"), after_tests=True),
        )
        assert ranks(steps) == {"app": 0, "upgraded": 1, "cache": 0, "report": 1, "again": 2}
        listed = linked(step("a"), step("b", after_tests=True), step("c"))
        assert ranks(listed) == {"a": 0, "b": 1, "c": 1}

    def test_a_long_list_has_ranks(self) -> None:
        """The depth of a plan is not limited by the interpreter's stack."""
        steps = linked(*(step(f"s{number}") for number in range(3000)), step("x", after_tests=True))
        assert ranks(steps)["x"] == 1

    def test_two_steps_that_begin_after_the_same_tests_are_refused(self) -> None:
        """The message has both steps, their places, and what to change."""
        with pytest.raises(PlanDefinitionError) as refused:
            linked(
                step("app"),
                step("one", needs="app", after_tests=True),
                step("two", needs="app", after_tests=True),
            )
        assert str(refused.value) == (
            "steps 'one' (conftest.py:one) and 'two' (conftest.py:two) both have after_tests, and "
            "neither waits for the other: add one of them to the needs of the other"
        )

    def test_an_eager_step_cannot_wait_for_tests_indirectly(self) -> None:
        """The message names the step that begins after tests."""
        with pytest.raises(PlanDefinitionError) as refused:
            linked(
                step("up", needs=(), after_tests=True),
                step("api", needs="up", eager=True),
            )
        assert str(refused.value) == (
            "step 'api' (conftest.py:api) is eager, but waits for a step that begins after tests: "
            "'up' (conftest.py:up); remove eager=True or that edge"
        )


class TestLongestFirst:
    """Which of the steps that are ready begin first."""

    def test_what_the_rest_of_the_plan_waits_for_comes_first(self) -> None:
        """It is the sum of the longest path that counts, not the step alone."""
        steps = linked(
            step("long", needs=()),
            step("short", needs=()),
            step("slow", needs="short"),
            step("unknown", needs=()),
        )
        seconds = {"long": 5.0, "short": 1.0, "slow": 4.5, "unknown": 0.0}
        order = longest_first(list(steps), steps, seconds.__getitem__)
        assert order == ["short", "long", "slow", "unknown"]

    def test_equal_steps_keep_their_order(self) -> None:
        """So nothing changes if no durations are known."""
        steps = linked(*(step(name, needs=()) for name in "cab"))
        assert longest_first(["a", "c", "b"], steps, lambda name: 0.0) == ["a", "c", "b"]

    def test_only_the_given_steps_count(self) -> None:
        """A step that is not to be provisioned does not make another one urgent."""
        steps = linked(step("a", needs=()), step("b", needs=()), step("later", needs="a"))
        seconds = {"a": 1.0, "b": 2.0, "later": 9.0}
        assert longest_first(["a", "b"], steps, seconds.__getitem__) == ["b", "a"]
