"""Defines the fixtures of the plugin: `plan`, and one for the value of each step."""

from __future__ import annotations

import inspect
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.plugin.compat import fixture_internals
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


@pytest.fixture
def plan_step_name(request: pytest.FixtureRequest) -> str:
    """The name of the step with which this test runs; the mark `plan_each` provides it."""
    pytest.fail(
        f"{request.node.nodeid} takes plan_step_name, but has no mark: "
        "add @pytest.mark.plan_each('app', 'upgraded')",
        pytrace=False,
    )


def let_others_override(config: pytest.Config) -> None:
    """Let a fixture `plan` of any other plugin override this one, however they are loaded."""
    fixture_internals.let_others_override(config, NEEDS, _plan)


class StepFixtures:
    """The session fixtures that return the values of steps.

    pytest looks for fixtures in the modules of conftests and plugins. The fixtures are in these
    modules only while it does so; otherwise doctest and the like would find them there.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._of: dict[types.ModuleType, dict[str, object]] = {}
        self._waiting: list[tuple[types.ModuleType, Declaration]] = []
        self._depth = 0

    def add(self, module: types.ModuleType, declaration: Declaration) -> None:
        """Add the fixture of a step that is declared in `module`."""
        self._waiting.append((module, declaration))

    def show(self) -> None:
        """Put the fixtures into their modules until the matching call of `hide`."""
        self._depth += 1
        if self._waiting:
            self._make()
        for module, fixtures in self._of.items():
            vars(module).update(fixtures)

    def hide(self) -> None:
        """Remove the fixtures from their modules, unless an outer `show` is in effect."""
        self._depth = max(0, self._depth - 1)
        if self._depth == 0:
            for module, fixtures in self._of.items():
                for name in fixtures:
                    vars(module).pop(name, None)

    def _make(self) -> None:
        """Make the fixtures of the steps that were declared since the last call."""
        waiting, self._waiting = self._waiting, []
        declared = lookup.of(self._config).declared
        with_parameters = declared.with_parameters()
        for module, declaration in waiting:
            params, ids, requested = with_parameters.get(declaration.full_name, (None, None, ()))
            mark = pytest.fixture(scope="session", name=declaration.name, params=params, ids=ids)
            fixture = mark(_function(module, declaration, requested))
            self._of.setdefault(module, {})[f"__plan_fixture_{declaration.name}"] = fixture


def _function(module: types.ModuleType, declaration: Declaration, requested: Sequence[str]) -> Any:
    name, full_name = declaration.name, declaration.full_name

    def value_of_step(request: pytest.FixtureRequest, **requested: object) -> Any:
        return lookup.of(request.config).value(full_name)

    # `--fixtures` shows the location of a fixture's code, which must be that of the step.
    code = value_of_step.__code__.replace(
        co_filename=declaration.file, co_firstlineno=max(1, declaration.line), co_name=name
    )
    function = types.FunctionType(code, globals(), name, None, value_of_step.__closure__)
    function.__doc__ = declaration.doc or f"The value of the plan step {name!r}."
    function.__module__ = module.__name__
    setattr(function, STEP_OF_FIXTURE, full_name)
    if requested:  # pytest parametrizes and groups tests by the fixtures that fixtures request
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        taken = [inspect.Parameter(one, kind) for one in ("request", *requested)]
        function.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    return function
