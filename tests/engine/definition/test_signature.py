"""The signatures of hooks."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pytest_plan.engine.definition.signature import Kind, hooks_of, kind_of
from pytest_plan.engine.definition.step import GenericStep, Step
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.outcomes import Hook


def plain() -> None:
    """A plain function."""


async def coroutine() -> None:
    """An `async def` function."""


def generator() -> Iterator[None]:
    """A generator function."""
    yield


async def async_generator() -> AsyncIterator[None]:
    """An async generator function."""
    yield


def copied(function: Any) -> Any:
    """Return another function with the same code and defaults."""
    twin = types.FunctionType(function.__code__, {}, "twin", function.__defaults__)
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


KINDS = [
    (plain, Kind.PLAIN),
    (coroutine, Kind.COROUTINE),
    (generator, Kind.GENERATOR),
    (async_generator, Kind.ASYNC_GENERATOR),
]


@pytest.mark.parametrize(("function", "kind"), KINDS)
class TestKind:
    """The kind of a function."""

    def test_a_function_has_a_kind(self, function: Callable[[], Any], kind: Kind) -> None:
        """Generators also have a tail."""
        assert kind_of(function) is kind
        assert kind.yields is (kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR))

    def test_a_partial_has_the_kind_of_its_function(
        self, function: Callable[[], Any], kind: Kind
    ) -> None:
        """`functools.partial` does not change how the function runs."""
        assert kind_of(functools.partial(function)) is kind

    def test_an_object_has_the_kind_of_its_call_method(
        self, function: Callable[[], Any], kind: Kind
    ) -> None:
        """The kind of `__call__` decides."""
        callable_object = type("Callable", (), {"__call__": lambda self: function()})()
        assert kind_of(callable_object) is Kind.PLAIN  # `__call__` is the lambda
        bound = type("Callable", (), {"__call__": staticmethod(function)})()
        assert kind_of(bound) is kind

    @pytest.mark.parametrize("hook", ["pre_exec", "post_exec", "cleanup"])
    def test_only_exec_may_yield(self, function: Callable[[], Any], kind: Kind, hook: str) -> None:
        """A generator for another hook is refused; the message has the hook and the step."""
        step = GenericStep(**{hook: function})
        if kind.yields:
            with pytest.raises(PlanDefinitionError, match=f"{hook} of step 'db'.*only exec"):
                hooks_of(step, "db")
        else:
            assert hooks_of(step, "db")[Hook(hook)].kind is kind


class TestHooksOf:
    """The hooks that a step defines."""

    def test_only_overridden_hooks_count(self) -> None:
        """The default hooks of `Step` are left out."""

        class Web(Step):
            def exec(self) -> None:
                """Work."""

        assert list(hooks_of(Web(), "web")) == [Hook.EXEC]
        assert hooks_of(GenericStep(), "none") == {}

    def test_hooks_are_in_the_order_in_which_they_run(self) -> None:
        """The order of their definition does not matter."""
        step = GenericStep(alive=plain, cleanup=plain, post_exec=plain, exec=plain, pre_exec=plain)
        assert list(hooks_of(step, "all")) == list(Hook)

    def test_only_parameters_without_a_default_are_passed(self) -> None:
        """`self`, `*args`, `**kwargs`, and parameters with a default are left out."""

        class Web(Step):
            def exec(self, ctx: Any, *args: Any, db: Any, port: int = 1, **kwargs: Any) -> None:
                """Work."""

        function = hooks_of(Web(), "web")[Hook.EXEC]
        assert function.required == ("ctx", "db")

    def test_a_function_takes_what_its_signature_says(self) -> None:
        """This includes methods, wrappers, partials, callable objects and marked functions."""

        def work(ctx: Any, port: int = 1, *args: Any, db: Any, url: str = "", **more: Any) -> None:
            """Work."""

        @functools.wraps(work)
        def wrapper(*args: Any, **keywords: Any) -> None:
            """Do the work."""

        def imitation() -> None:
            """Do the work."""

        imitation.__signature__ = inspect.signature(work)  # type: ignore[attr-defined]

        class Web(Step):
            exec = work
            __call__ = work

            @classmethod
            def of_class(cls, ctx: Any, db: Any) -> None:
                """Work."""

            @staticmethod
            def static(ctx: Any, db: Any) -> None:
                """Work."""

            def no_self(*args: Any, db: Any) -> None:
                """Work."""

        marked = pytest.mark.skip(copied(work))
        noted = copied(work)
        noted.note = "an attribute"
        web = Web()
        expected = {
            work: ("ctx", "db"), wrapper: ("ctx", "db"), imitation: ("ctx", "db"),
            marked: ("ctx", "db"), noted: ("ctx", "db"), web.exec: ("db",), web: ("db",),
            web.of_class: ("ctx", "db"), web.static: ("ctx", "db"), web.no_self: ("db",),
            functools.partial(work, db=1): ("ctx",), functools.partial(work, 1): ("db",),
        }  # fmt: skip
        for function, required in expected.items():
            found = hooks_of(GenericStep(exec=function), "db")[Hook.EXEC]
            assert (found.function, found.required) == (function, required)
            assert found.kind is Kind.PLAIN

    def test_a_positional_only_parameter_is_refused(self) -> None:
        """Hooks take their parameters by name; the error has the name of this one."""

        def exec(ctx: Any, /) -> None: ...

        with pytest.raises(PlanDefinitionError, match="'ctx' is positional-only") as caught:
            hooks_of(GenericStep(exec=exec), "db")
        assert (caught.value.step, caught.value.parameter) == ("db", "ctx")

    def test_a_hook_that_is_not_callable_is_refused(self) -> None:
        """A class attribute may have the name of a hook by mistake."""

        class Web(Step):
            exec = "work"  # type: ignore[assignment]

        with pytest.raises(
            PlanDefinitionError, match="exec of step 'web' must be callable, not 'work'"
        ):
            hooks_of(Web(), "web")

    def test_a_function_without_a_signature_is_refused(self) -> None:
        """Some built-in functions have no signature; the message has the hook and the step."""
        with pytest.raises(PlanDefinitionError, match="exec of step 'db'"):
            hooks_of(GenericStep(exec=min), "db")
