"""Defines the fixtures of the plugin: `plan`, and one for the value of each step."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.plugin.compat import pytest_internals
from pytest_plan.plugin.declaring.marks import ALL_STEPS, NEEDS, STEP_OF_FIXTURE
from pytest_plan.plugin.session import lookup

if TYPE_CHECKING:
    from pytest_plan.plugin.declaring.declaration import Declaration
    from pytest_plan.plugin.items.handle import PlanHandle


def _plan(request: pytest.FixtureRequest) -> PlanHandle:
    """The plan: its state, results, remaining time, run id and environment.

    A test that requests it needs every step visible from its directory. With
    `@pytest.mark.plan("a", "b")`, it needs only these two.
    """
    return lookup.of(request.config).handle


setattr(_plan, STEP_OF_FIXTURE, ALL_STEPS)
plan = pytest.fixture(scope="session", name="plan")(_plan)


def let_others_override(config: pytest.Config) -> None:
    """Let a fixture `plan` of any other plugin override this one, however they are loaded."""
    pytest_internals.let_others_override(config, NEEDS, _plan)


def add_step_fixture(module: types.ModuleType, declaration: Declaration) -> None:
    """Add to `module` a session fixture that returns the value of the step."""
    fixture = pytest.fixture(scope="session", name=declaration.name)(_function(module, declaration))
    setattr(module, f"__plan_fixture_{declaration.name}", fixture)


def _function(module: types.ModuleType, declaration: Declaration) -> Any:
    name, full_name = declaration.name, declaration.full_name

    def value_of_step(request: pytest.FixtureRequest) -> Any:
        return lookup.of(request.config).value(full_name)

    # `--fixtures` shows the location of a fixture's code, which must be that of the step.
    code = value_of_step.__code__.replace(
        co_filename=declaration.file, co_firstlineno=max(1, declaration.line), co_name=name
    )
    function = types.FunctionType(code, globals(), name, None, value_of_step.__closure__)
    function.__doc__ = declaration.doc or f"The value of the plan step {name!r}."
    function.__module__ = module.__name__
    setattr(function, STEP_OF_FIXTURE, full_name)
    return function
