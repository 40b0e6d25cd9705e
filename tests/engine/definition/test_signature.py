"""Hooks as a plan sees them."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pytest_plan.engine.definition.signature import Kind, hooks_of, kind_of
from pytest_plan.engine.definition.step import GenericStep, Step
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.outcomes import Hook


def plain() -> None:
    """A function."""


async def coroutine() -> None:
    """An `async def` function."""


def generator() -> Iterator[None]:
    """A generator function."""
    yield


async def async_generator() -> AsyncIterator[None]:
    """An async generator function."""
    yield


KINDS = [
    (plain, Kind.PLAIN),
    (coroutine, Kind.COROUTINE),
    (generator, Kind.GENERATOR),
    (async_generator, Kind.ASYNC_GENERATOR),
]


@pytest.mark.parametrize(("function", "kind"), KINDS)
class TestKind:
    """How a function runs."""

    def test_a_function_is_known_by_its_definition(
        self, function: Callable[[], Any], kind: Kind
    ) -> None:
        """And whether it has a tail."""
        assert kind_of(function) is kind
        assert kind.yields is (kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR))

    def test_a_partial_is_what_it_calls(self, function: Callable[[], Any], kind: Kind) -> None:
        """functools.partial hides nothing."""
        assert kind_of(functools.partial(function)) is kind

    def test_an_object_is_its_call(self, function: Callable[[], Any], kind: Kind) -> None:
        """`__call__` decides."""
        callable_object = type("Callable", (), {"__call__": lambda self: function()})()
        assert kind_of(callable_object) is Kind.PLAIN  # the lambda is what is called
        bound = type("Callable", (), {"__call__": staticmethod(function)})()
        assert kind_of(bound) is kind

    @pytest.mark.parametrize("hook", ["pre_exec", "post_exec", "cleanup"])
    def test_only_exec_may_yield(self, function: Callable[[], Any], kind: Kind, hook: str) -> None:
        """Any other generator is refused by name of step and hook."""
        step = GenericStep(**{hook: function})
        if kind.yields:
            with pytest.raises(PlanDefinitionError, match=f"{hook} of step 'db'.*only exec"):
                hooks_of(step, "db")
        else:
            assert hooks_of(step, "db")[Hook(hook)].kind is kind


class TestHooksOf:
    """What a step has."""

    def test_only_hooks_that_are_overridden(self) -> None:
        """The defaults of Step are not called."""

        class Web(Step):
            def exec(self) -> None:
                """Work."""

        assert list(hooks_of(Web(), "web")) == [Hook.EXEC]
        assert hooks_of(GenericStep(), "none") == {}

    def test_in_the_order_in_which_they_run(self) -> None:
        """Whatever the order of their definition."""
        step = GenericStep(alive=plain, cleanup=plain, post_exec=plain, exec=plain, pre_exec=plain)
        assert list(hooks_of(step, "all")) == list(Hook)

    def test_parameters_with_and_without_defaults(self) -> None:
        """Variable ones get nothing; `self` is no parameter."""

        class Web(Step):
            def exec(self, ctx: Any, *args: Any, db: Any, port: int = 1, **kwargs: Any) -> None:
                """Work."""

        function = hooks_of(Web(), "web")[Hook.EXEC]
        assert (function.required, function.optional) == (("ctx", "db"), ("port",))

    def test_a_parameter_by_position_only_is_refused(self) -> None:
        """Hooks get theirs by name; the error names it."""

        def exec(ctx: Any, /) -> None: ...

        with pytest.raises(PlanDefinitionError, match="'ctx' by position only") as caught:
            hooks_of(GenericStep(exec=exec), "db")
        assert (caught.value.step, caught.value.parameter) == ("db", "ctx")

    def test_a_hook_that_is_no_function_is_refused(self) -> None:
        """Such as a class attribute of that name."""

        class Web(Step):
            exec = "work"  # type: ignore[assignment]

        with pytest.raises(PlanDefinitionError, match="exec of step 'web' is no function: 'work'"):
            hooks_of(Web(), "web")

    def test_a_function_whose_parameters_cannot_be_read_is_refused(self) -> None:
        """Some builtin ones have no signature: the error names step and hook."""
        with pytest.raises(PlanDefinitionError, match="exec of step 'db'"):
            hooks_of(GenericStep(exec=min), "db")
