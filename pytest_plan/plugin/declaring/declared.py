"""Holds and checks all steps that are declared in this process, by marks or in code."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

import pytest

from pytest_plan.engine.definition.graph import closure, ranks
from pytest_plan.engine.definition.names import StepNames, own_name, unknown_step, worker_of
from pytest_plan.engine.definition.options import DEFAULT_HOST
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.plan import DEFAULT_CLEANUP_LIMIT, DEFAULT_JOBS, Plan, definition_of
from pytest_plan.engine.shared.store import LocalStore
from pytest_plan.plugin.compat import timeout_internals
from pytest_plan.plugin.compat.fixture_internals import fixture_definitions, parameters
from pytest_plan.plugin.declaring.declaration import Declaration
from pytest_plan.plugin.declaring.selection import Selection
from pytest_plan.plugin.interface.options import Settings

_REFUSAL = "pytest_plan_configure only declares steps, and pytest runs the plan when tests need it"
_TAKEN = ("plan", "request")
# These fixtures are recognized even while eager steps are provisioned, before pytest has registered
# its fixtures.
_ALWAYS_FIXTURES = frozenset(
    {"request", "tmp_path", "tmp_path_factory", "monkeypatch", "capsys", "pytestconfig"}
)


class DeclaredSteps:
    """The steps declared in this process.

    Args:
        config: the config of this process.
        settings: the options of this run.
        store: the store that holds the State.

    Attributes:
        plan: the plan with these steps.
        declarations: the declaration of each step, by full name.
        needed: the steps to run for the selected tests; None until the tests have been collected.
        selection: what the selected tests need, stage by stage.
        error: why the steps of this process are incomplete; None if they are not.
    """

    def __init__(self, config: pytest.Config, settings: Settings, store: LocalStore) -> None:
        self.config = config
        self.settings = settings
        self.plan = Plan(
            limit=settings.limit,
            continue_on_error=settings.continue_on_error,
            cleanup_limit=settings.cleanup_limit or DEFAULT_CLEANUP_LIMIT,
            jobs=settings.jobs or DEFAULT_JOBS,
            parameters={"config": config},
            host=settings.host or DEFAULT_HOST,
            store=store,
        )
        self.definition = definition_of(self.plan)
        if timeout_internals.is_debugged():
            self.definition.options = self.definition.options.without_limits()
        self.definition.refusal = _REFUSAL
        self.definition.name_parameters = partial(parameters, config)
        for name in settings.skip:
            self.definition.skip(name, f"{settings.sources['skip']} {name}")
        self.declarations: dict[str, Declaration] = {}
        self.needed: tuple[str, ...] | None = None
        self.selection = Selection()
        self.error: str | None = None

    @property
    def steps(self) -> Mapping[str, PlannedStep]:
        """Every step by name, with its edges; of a step that has instances, those known so far.

        Raises:
            pytest.UsageError: the plan is invalid, for example because of a cycle.
        """
        try:
            return self.definition.linked()
        except PlanDefinitionError as error:
            raise pytest.UsageError(self._explain(error)) from None

    def templates(self, steps: Mapping[str, PlannedStep]) -> Mapping[str, PlannedStep]:
        """Return the steps as they are declared, instead of their instances in `steps`."""
        return self.definition.templates() if self.definition.has_instances else steps

    def with_parameters(self) -> dict[str, tuple[list[Any] | None, Any, tuple[str, ...]]]:
        """Return what the fixtures of steps need so that pytest parametrizes tests.

        Returns:
            The parameters, their ids, and the names of the fixtures to request, of each step that
            has parameters or needs one that has, by its full name. It is empty while the plan is
            incomplete; the survey of the tests reports why.
        """
        if not self.definition.has_instances:
            return {}
        try:
            steps = self.definition.templates()
        except PlanDefinitionError:
            return {}
        names, found = StepNames(steps), {}
        for step in steps.values():
            params, ids = step.options.params, step.options.ids
            needs = [need for need in step.needs if parametrized([need], steps)]
            requested = [own_name(need) for need in needs]
            seen = names.seen_from(step.scope)
            visible = [one for one in requested if seen.find(one) in needs]
            given = None if params is None else [one.given for one in params]
            found[step.full_name] = (given, ids, tuple(visible))
        return found

    def everywhere(self, names: Iterable[str], steps: Mapping[str, PlannedStep]) -> tuple[str, ...]:
        """Return the instances for all workers of the steps that one worker needs."""
        if not self.definition.has_instances:
            return tuple(names)
        wanted = {steps[name].shared_name if name in steps else name for name in names}
        found = [name for name, step in steps.items() if step.shared_name in wanted]
        return (*found, *(name for name in names if name not in steps))

    def add(self, declaration: Declaration) -> None:
        """Add a declared step.

        Raises:
            PlanDefinitionError: the step is invalid, or its name is taken.
        """
        self._refuse_name(declaration.name, declaration.origin)
        self.definition.declare(
            declaration.step,
            declaration.name,
            declaration.options,
            declaration.origin,
            scope=declaration.scope,
            folder=declaration.folder,
        )
        self.declarations[declaration.full_name] = declaration

    def declare_added(self) -> list[Declaration]:
        """Declare the named steps that `pytest_plan_configure` has added, and return them."""
        added = []
        for name, step in self.definition.steps.items():
            if step.full_name in self.declarations or not name.isidentifier():
                continue
            self._refuse_name(name, step.origin)
            file, _, line = step.origin.rpartition(":")
            doc = type(step.step).__doc__
            declaration = Declaration(name, step.step, {}, file, int(line), (), "", doc)
            added.append(declaration)
            self.declarations[name] = declaration
        return added

    def to_run(self, names: Iterable[str], steps: Mapping[str, PlannedStep]) -> tuple[str, ...]:
        """Return the steps to run for tests that need `names`, in the order of the plan.

        With `--plan-until`, these are that step and the steps that it needs, regardless of the
        tests.
        """
        until = self.until
        wanted = closure(names if until is None else named(until, steps), steps)
        return tuple(name for name in steps if name in wanted)

    def due(self) -> tuple[str, ...]:
        """Return the steps to run that may begin now, in the order of the plan."""
        return tuple(name for name in self.needed or () if self.selection.is_due(name))

    def is_later(self, name: str) -> bool:
        """Return whether a step will run, but only after tests that do not need it."""
        return name in (self.needed or ()) and not self.selection.is_due(name)

    @property
    def until(self) -> str | None:
        """The last step to run, or None if there is no `--plan-until`.

        An unknown name is returned as it is.

        Raises:
            pytest.UsageError: several steps have this name.
        """
        name = self.settings.until
        return name and (self._find("until", name) or name)

    @property
    def followed(self) -> frozenset[str]:
        """The steps whose logs are printed as they grow; an unknown name is as it is.

        Raises:
            pytest.UsageError: several steps have one of these names.
        """
        return frozenset(self._find("follow", name) or name for name in self.settings.follow)

    def include(self, folders: Iterable[tuple[str, ...]]) -> None:
        """Add the steps of these folders that only the cleanup of an earlier run has loaded so far.

        Raises:
            pytest.UsageError: the plan is invalid.
        """
        try:
            for folder in folders if self.definition.set_aside else ():
                self.definition.include(folder)
        except PlanDefinitionError as error:
            raise pytest.UsageError(str(error)) from None

    def conftests(self) -> list[str]:
        """Return the conftests that declare steps, relative to rootdir."""
        files = {declaration.conftest for declaration in self.declarations.values()}
        return sorted(os.path.relpath(file, self.config.rootpath) for file in files if file)

    def check(self, steps: Mapping[str, PlannedStep]) -> None:
        """Check that options name existing steps, and that no step hides a fixture of pytest's own.

        Raises:
            pytest.UsageError: an option names an unknown step, or a name that is not unique, a step
                hides a fixture, or steps are missing.
        """
        if self.error is not None:
            raise pytest.UsageError(self.error)
        until = self.settings.until
        settings = self.settings
        named = {
            "until": until and [until],
            "skip": settings.skip,
            "follow": settings.follow,
            "share_steps": settings.share_steps,
        }
        for option, names in named.items():
            for name in names or ():
                if self._find(option, name) is None and not self._is_instance(name, steps):
                    source = self.settings.sources[option]
                    raise pytest.UsageError(f"{source}: {unknown_step(name, steps)}")
        for name, step in self.templates(steps).items():
            place = _pytest_fixture(self.config, own_name(name))
            if place is not None:
                raise pytest.UsageError(
                    f"step {name!r} ({step.origin}) would hide the fixture {own_name(name)!r} of "
                    f"{place}; give it another name with plan_step(name=...)"
                )

    def settle_eager(self) -> None:
        """If there are eager steps, let all steps so far keep their names, in every process.

        Eager steps begin before the conftests that are loaded during collection are known.
        """
        if self._eager():
            self.definition.settle()

    def eager_steps(self) -> list[str]:
        """Return the steps to provision before collection.

        Raises:
            pytest.UsageError: there are eager steps, and the plan is invalid.
        """
        eager = self._eager()
        until = self.until if eager else None
        # A step that is unknown here is declared in a conftest that is loaded during collection.
        steps = self.steps if eager else {}
        instances = named(until, steps) if until is not None else ()
        if instances:
            wanted = {steps[name].template for name in closure(instances, steps)}
            eager &= wanted
        return [name for name, step in steps.items() if step.template in eager]

    def _eager(self) -> set[str]:
        declared = self.definition.steps.items()
        eager = {name for name, step in declared if step.options.eager}
        if self.settings.eager:
            steps = self.steps
            early = (name for name, rank in ranks(steps).items() if not rank)
            eager.update(steps[name].template for name in early if steps[name].options.per == "run")
        return eager

    def _is_instance(self, name: str, steps: Mapping[str, PlannedStep]) -> bool:
        """Return whether an option names an instance; a worker knows none of other workers."""
        if name in steps:
            return True
        worker = worker_of(name)
        if worker is None or not hasattr(self.config, "workerinput"):
            return False
        shared = name.removesuffix(f"@{worker}")
        return any(step.shared_name == shared for step in steps.values() if step.worker)

    def _find(self, option: str, name: str) -> str | None:
        """Return the step that an option names, or None if it is unknown."""
        try:
            return StepNames(self.definition.steps).find(name, None)
        except PlanDefinitionError as error:
            raise pytest.UsageError(f"{self.settings.sources[option]}: {error}") from None

    def _refuse_name(self, name: str, origin: str) -> None:
        if name in _TAKEN:
            raise PlanDefinitionError(
                f"{origin}: {name!r} is a reserved name, because tests take it as a fixture; "
                "rename the step"
            )

    def _explain(self, error: PlanDefinitionError) -> str:
        """Return the text of an error; if a hook takes a fixture, say so in pytest's terms."""
        name, step = error.parameter, self.definition.steps.get(error.step or "")
        if name is None or step is None or not _is_fixture(self.config, name):
            return str(error)
        return (
            f"step {step.name!r} ({step.origin}) takes {name!r}, which is a pytest fixture: steps "
            "run once, before any test, and cannot take fixtures; take `ctx` (ctx.tmp_path, "
            "ctx.setenv, ctx.free_port), `config`, `state` or the value of another step"
        )


def parametrized(names: Iterable[str], steps: Mapping[str, PlannedStep]) -> list[str]:
    """Return the steps with parameters that these steps need or are, in the order of the plan."""
    found = closure(names, steps, needs_only=True)
    return [name for name in steps if name in found and steps[name].options.params is not None]


def named(name: str, steps: Mapping[str, PlannedStep]) -> Collection[str]:
    """Return the steps that an option means by this name: all instances of a step, or one."""
    return [one for one, step in steps.items() if name in (one, step.template)]


def _is_fixture(config: pytest.Config, name: str) -> bool:
    return name in _ALWAYS_FIXTURES or bool(fixture_definitions(config, name))


def _pytest_fixture(config: pytest.Config, name: str) -> str | None:
    for definition in fixture_definitions(config, name):
        module = str(getattr(definition.func, "__module__", ""))
        if module.startswith("_pytest."):
            return f"pytest ({module})"
    return None
