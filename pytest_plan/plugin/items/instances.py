"""Maps tests to the instances of steps that they need, and parametrizes tests as fixtures would."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import pytest

from pytest_plan.engine.definition.instances import InstanceNames, groups_of
from pytest_plan.engine.definition.names import Names, StepNames, own_name
from pytest_plan.engine.definition.options import Parameter
from pytest_plan.engine.definition.plan_definition import PlanDefinition
from pytest_plan.engine.definition.planned import Instance, PlannedStep
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.plugin.compat.fixture_internals import is_direct_parameter
from pytest_plan.plugin.declaring.declared import parametrized
from pytest_plan.plugin.declaring.marks import EACH, NEEDS, mark_skips
from pytest_plan.plugin.items.needs import folder_of


class TestInstances:
    """The instances that tests of one worker need.

    Args:
        steps: all steps, with the instances for this worker.
        templates: the steps as they are declared.
        names: what names of steps mean in each folder.
        worker: the worker in the names of the instances.
    """

    __test__ = False  # keeps pytest from collecting it

    def __init__(
        self,
        steps: Mapping[str, PlannedStep],
        templates: Mapping[str, PlannedStep],
        names: StepNames,
        worker: str,
    ) -> None:
        self._steps = steps
        self._templates = templates
        self._names = names
        self._worker = worker
        self._groups = groups_of(steps)
        self._skipped = {
            (name, position)
            for name, step in templates.items()
            for position, param in enumerate(step.options.params or ())
            if any(mark_skips(mark, {}) for mark in _marks_of(param))
        }
        self._choices: dict[pytest.Item, Mapping[str, int]] = {}

    @property
    def have_parameters(self) -> bool:
        """Whether any step has parameters."""
        return any(step.choice for step in self._steps.values())

    def needed(self, item: pytest.Item, steps: Sequence[str]) -> tuple[str, ...]:
        """Return the instances of these steps that a test needs, in the order of the plan.

        They are those for the parameters of the test. If the test is not parametrized, as one that
        only takes the fixture `plan`, they are those for all parameters that no mark skips.

        Raises:
            pytest.UsageError: the test is parametrized with a value that the step does not have.
        """
        names = self.names(item)
        found = (names.meant(step) if step in self._groups else [step] for step in steps)
        chosen = self._choice(item)
        return tuple(
            one for instances in found for one in instances if not self._is_skipped(one, chosen)
        )

    def _is_skipped(self, name: str, chosen: Mapping[str, int]) -> bool:
        """Return whether an instance is for a parameter that is marked `skip`, and not chosen."""
        choice = self._steps[name].choice.items() if self._skipped else ()
        return any(one in self._skipped and one[0] not in chosen for one in choice)

    def names(self, item: pytest.Item | None, folder: Names | None = None) -> InstanceNames:
        """Return what names mean to a test, or to no test in particular.

        Args:
            item: the test; None means that any parameter can be meant.
            folder: what names mean in its folder; None means that every name is as it is.
        """
        choice = {} if item is None else self._choice(item)
        return InstanceNames(self._groups, Instance("", self._worker, choice), folder)

    def _choice(self, item: pytest.Item) -> Mapping[str, int]:
        """Return the positions of the parameters of a test, by the names of the steps."""
        if item not in self._choices:
            self._choices[item] = dict(self._chosen(item))
        return self._choices[item]

    def _chosen(self, item: pytest.Item) -> Iterator[tuple[str, int]]:
        spec = getattr(item, "callspec", None)
        for argument, value in getattr(spec, "params", {}).items():
            step = _found(self._names, argument, item)
            params = None if step is None else self._templates[step].options.params
            if step is None or params is None or is_direct_parameter(item, argument):
                continue
            position = _position(params, value, getattr(spec, "indices", {}).get(argument, 0))
            if position is None:
                known = ", ".join(repr(one.value) for one in params)
                raise pytest.UsageError(
                    f"{item.nodeid}: the test is parametrized with {argument}={value!r}, which is "
                    f"none of the parameters of step {step!r} "
                    f"({self._templates[step].origin}): {known}"
                )
            yield step, position


class Parametrization:
    """Parametrizes tests by the steps that they need without using their fixtures.

    pytest itself parametrizes a test that uses the fixture of a step.

    Args:
        definition: the plan, to which conftests of subdirectories add steps during collection.
    """

    def __init__(self, definition: PlanDefinition) -> None:
        self._definition = definition
        self._steps: Mapping[str, PlannedStep] = {}
        self._count = 0  # how many steps there were when `_steps` was set

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> Generator[None, object, object]:
        """Parametrize a test by its marks, and by steps that are `autouse`."""
        missing = self._missing(metafunc)
        metafunc.fixturenames.extend(missing)
        result = yield
        marks = metafunc.definition.iter_markers("parametrize")
        own = {name for mark in marks for name in _arguments(mark)}
        for name, (params, ids) in missing.items():
            if name not in own:
                metafunc.parametrize(name, params, indirect=True, ids=ids, scope="session")
        return result

    def _missing(self, metafunc: pytest.Metafunc) -> dict[str, tuple[list[Any], Any]]:
        """Return the parameters and ids by the names of the fixtures that the test lacks."""
        item = metafunc.definition
        each = item.get_closest_marker(EACH)
        marks = [*item.iter_markers(NEEDS), *([each] if each is not None else ())]
        marked = [name for mark in marks for name in mark.args]
        steps = self._linked()
        names, folder = StepNames(steps), folder_of(item)
        wanted = {_found(names, name, item) for name in marked if isinstance(name, str)}
        wanted |= {
            name
            for name, step in steps.items()
            if step.options.autouse and folder[: len(step.scope)] == step.scope
        }
        found = {}
        for name in parametrized((name for name in wanted if name is not None), steps):
            fixture, options = own_name(name), steps[name].options
            if fixture not in metafunc.fixturenames and _found(names, fixture, item) == name:
                found[fixture] = ([one.given for one in options.params or ()], options.ids)
        return found

    def _linked(self) -> Mapping[str, PlannedStep]:
        if self._count != len(self._definition.steps):
            self._count = len(self._definition.steps)
            with contextlib.suppress(PlanDefinitionError):  # the survey of the tests reports it
                self._steps = self._definition.templates()
        return self._steps


class ParameterVariables:
    """Sets the environment variables of parameters, from the setup of a test to its teardown.

    Args:
        variables: a function that returns the variables for a test.
    """

    def __init__(self, variables: Callable[[pytest.Item], Mapping[str, str]]) -> None:
        self._variables = variables

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Set the variables while the test runs."""
        variables = self._variables(item)
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            return (yield)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _marks_of(param: Parameter) -> Iterator[pytest.Mark]:
    for mark in getattr(param.given, "marks", ()) if param.given is not param.value else ():
        yield getattr(mark, "mark", mark)


def _found(names: StepNames, name: str, item: pytest.Item) -> str | None:
    try:
        return names.find(name, folder_of(item))
    except PlanDefinitionError:
        return None


def _position(params: Sequence[Parameter], value: object, likely: int) -> int | None:
    """Return the position of a value, which is probably at `likely`; None if there is none."""
    order = sorted(range(len(params)), key=lambda position: position != likely)
    for position in order:
        if params[position].value is value:
            return position
    return next((position for position in order if _equal(params[position].value, value)), None)


def _equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:
        return False


def _arguments(mark: pytest.Mark) -> Sequence[str]:
    names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
    return [one.strip() for one in names.split(",")] if isinstance(names, str) else list(names)
