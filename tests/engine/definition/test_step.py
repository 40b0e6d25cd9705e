"""Steps made of classes and functions, and pauses."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_plan.engine.definition.step import GenericStep, Pause, Step, snake_case
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.plan import Plan
from tests.engine.support.steps import Calls


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("Web", "web"),
        ("WebServer", "web_server"),
        ("HTTPServer", "http_server"),
        ("HTTP2Server", "http2_server"),
        ("MyDB", "my_db"),
        ("A", "a"),
        ("already_snake", "already_snake"),
        ("_Private", "_private"),
    ],
)
def test_the_name_of_a_class_is_converted_to_a_step_name(name: str, step: str) -> None:
    """The step name is the class name in snake_case."""
    assert snake_case(name) == step


def test_every_hook_of_a_step_has_a_default() -> None:
    """A step that overrides no hook succeeds."""
    assert Plan().add_step(Step(), name="it").execute().steps["it"].error is None


def test_retries_are_an_attribute() -> None:
    """`retries` is an int and 0 by default, as in gsd."""
    assert Step().retries == 0
    assert GenericStep().retries == 0


def test_with_retries_returns_another_step(calls: Calls) -> None:
    """The copy has the same hooks and its own number; the original is unchanged."""
    step = GenericStep(exec=calls.hook("exec"))
    twin = step.with_retries(3)
    assert (step.retries, twin.retries) == (0, 3)
    Plan().add_step(step).add_step(twin).execute()
    assert calls == ["exec", "exec"]


@pytest.mark.parametrize("hook", ["pre_exec", "exec", "post_exec", "cleanup"])
@pytest.mark.parametrize("junk", [7, "exec", []])
def test_a_hook_of_a_generic_step_must_be_callable(hook: str, junk: Any) -> None:
    """The message has the hook and the value."""
    with pytest.raises(PlanDefinitionError) as caught:
        GenericStep(**{hook: junk})
    assert hook in str(caught.value)
    assert repr(junk) in str(caught.value)


def test_a_generic_step_takes_its_hooks_by_keyword_only() -> None:
    """Positional functions could be mistaken for another hook."""
    with pytest.raises(TypeError):
        GenericStep(print)  # type: ignore[call-arg]


def test_a_pause_has_its_duration() -> None:
    """The attribute `seconds` is the duration of the wait."""
    assert Pause(1.5).seconds == 1.5
