"""The definition of a plan: its declared steps and the options of its run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pytest_plan.engine.definition.graph import OWN_PARAMETERS, VALUE, link
from pytest_plan.engine.definition.instances import (
    SOLO,
    NameParameters,
    expand,
    plain_parameters,
)
from pytest_plan.engine.definition.names import StepNames, own_name
from pytest_plan.engine.definition.options import (
    OPTION_NAMES,
    RunOptions,
    StepOptions,
    check_options,
)
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.definition.signature import hooks_of
from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.outcomes import Hook

_OPTIONS = frozenset(OPTION_NAMES)


class PlanDefinition:
    """The steps of a plan, in the order of their declaration. Each is checked when declared.

    Attributes:
        options: the options of the run.
        steps: the declared steps by their names in the run, without edges.
        set_aside: steps that are declared, but are not part of this plan, by full name.
        has_instances: whether any declared step has instances.
        workers: the workers of this run, as they are known so far.
        name_parameters: a function that gives the parameters of a step their ids.
        refusal: the reason why `Plan.execute` and `Plan.provisioned` must not be called; empty if
            they may be called.
    """

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.refusal = ""
        self.steps: dict[str, PlannedStep] = {}
        self._names: dict[str, dict[str, str]] = {}  # by full name, by own name
        self._settled: set[str] = set()
        self.set_aside: dict[str, PlannedStep] = {}
        self.has_instances = False
        self.workers: tuple[str, ...] = (SOLO,)
        self._class_options: dict[type, tuple[str, ...]] = {}  # the options that a class sets
        self.name_parameters: NameParameters = plain_parameters
        self._is_setting_aside = False
        self._skipped: dict[str, str] = {}

    def declare(
        self,
        step: Step,
        name: str,
        options: Mapping[str, Any],
        origin: str,
        *,
        scope: tuple[str, ...] = (),
        folder: str = "",
    ) -> None:
        """Append a step.

        If another step has the same own name, this step is called by its full name, and so is the
        other one unless it may have begun.

        Args:
            step: the step.
            name: the own name of the step, which the caller has generated or checked with
                `check_name`.
            options: the options of the step. A missing option is taken from the step's attribute
                of the same name, or else is the default.
            origin: `file:line` of the declaration.
            scope: the folder of the declaration; see `PlannedStep`.
            folder: the folder in the step's full name; "" if the full name has none.

        Raises:
            PlanDefinitionError: the step, its name or an option is invalid.
        """
        if not isinstance(step, Step):
            raise PlanDefinitionError(
                f"{origin}: {step!r} is not a step; pass an instance of Step or GenericStep"
            )
        if name in (*OWN_PARAMETERS, VALUE, *self.options.parameters):
            raise PlanDefinitionError(
                f"{origin}: {name!r} is a reserved name; rename the step", step=name
            )
        checked = check_options({**self._attributes(step), **options}, name, origin)
        hooks = hooks_of(step, name)
        if checked.alive_every is not None and Hook.ALIVE not in hooks:
            raise PlanDefinitionError(
                f"step {name!r} ({origin}): alive_every needs an alive hook", step=name
            )
        if checked.after_tests and not self.refusal:
            raise PlanDefinitionError(
                f"step {name!r} ({origin}): after_tests needs tests, and this plan runs none: "
                "remove the option, or declare the step in a conftest.py",
                step=name,
            )
        if checked.params is not None or checked.per != "run":
            checked = self._with_instances(checked, name, origin)
        planned = PlannedStep(name, step, hooks, checked, origin, scope, folder=folder)
        if self._is_setting_aside:
            self.set_aside[planned.full_name] = planned
            return
        if self.set_aside:
            self.include(scope)
        self._append(planned)

    @contextlib.contextmanager
    def setting_aside(self) -> Iterator[None]:
        """Keep steps that are declared in the body out of the plan: another run has begun them."""
        self._is_setting_aside = True
        try:
            yield
        finally:
            self._is_setting_aside = False

    def include(self, scope: tuple[str, ...]) -> None:
        """Append the steps that were set aside and are visible in a folder of this run."""
        for full_name, step in list(self.set_aside.items()):
            if step.scope == scope[: len(step.scope)]:
                self._append(self.set_aside.pop(full_name))

    def settle(self) -> None:
        """Let the steps that are declared so far keep their names, because they may begin now."""
        self._settled.update(self.steps)

    def name_of(self, full_name: str) -> str | None:
        """Return the name in the run of the step with this full name, or None if there is none."""
        return self._names.get(own_name(full_name), {}).get(full_name)

    def skip(self, name: str, reason: str) -> None:
        """Skip a step, and every step that needs it, as if the step had called `pytest.skip`.

        A name that means no step, or that could mean several, is ignored.
        """
        self._skipped[name] = reason

    def linked(self) -> dict[str, PlannedStep]:
        """Return the steps by name with their edges, in the order of their declaration.

        A step that has instances is replaced by those for the parameters and workers known so far.

        Raises:
            PlanDefinitionError: a step needs an unknown step or one that it cannot need, or the
                edges form a cycle.
        """
        steps = self.templates()
        if not self.has_instances:
            return steps
        expanded = expand(steps, self.workers)
        for name in self._skipped.keys() & expanded.keys():
            options = expanded[name].options._replace(skip=self._skipped[name])
            expanded[name] = expanded[name]._replace(options=options)
        return expanded

    def templates(self) -> dict[str, PlannedStep]:
        """Return the steps as they are declared, with their edges; see `linked`."""
        skipped = self._reasons_to_skip() if self._skipped else {}
        steps = [
            step._replace(options=step.options._replace(skip=skipped[name]))
            if name in skipped
            else step
            for name, step in self.steps.items()
        ]
        return link(steps, self.options.parameters)

    def _attributes(self, step: Step) -> dict[str, Any]:
        """Return the options that are attributes of a step, or of its class."""
        kind = type(step)
        of_class = self._class_options.get(kind)
        if of_class is None:
            # A class may make attributes up.
            is_plain = not hasattr(kind, "__getattr__")
            of_class = tuple(one for one in OPTION_NAMES if hasattr(kind, one) or not is_plain)
            self._class_options[kind] = of_class
        own = getattr(step, "__dict__", {}).keys() & _OPTIONS
        return {one: getattr(step, one) for one in (*of_class, *own) if hasattr(step, one)}

    def _with_instances(self, options: StepOptions, name: str, origin: str) -> StepOptions:
        """Return the options of a step that has instances, with the ids of its parameters."""
        self.has_instances = True
        if options.eager and options.per == "worker":
            raise PlanDefinitionError(
                f"step {name!r} ({origin}) cannot be eager, because it is provisioned once per "
                "worker, and there is no worker before collection; remove eager=True or "
                "per='worker'",
                step=name,
            )
        if options.params is None:
            return options
        self._check_number(options, name, origin)
        try:
            named = self.name_parameters(name, options.params, options.ids)
        except ValueError as error:
            raise PlanDefinitionError(f"step {name!r} ({origin}): {error}", step=name) from error
        return options._replace(params=named)

    def _check_number(self, options: StepOptions, name: str, origin: str) -> None:
        params, ids = len(options.params or ()), options.ids
        if ids is not None and not callable(ids) and len(ids) != params:
            raise PlanDefinitionError(
                f"step {name!r} ({origin}) has {params} params and {len(ids)} ids; give each "
                "parameter one id",
                step=name,
            )

    def _reasons_to_skip(self) -> dict[str, str]:
        found = {}
        names = StepNames(self.steps)
        for name, reason in self._skipped.items():
            with contextlib.suppress(PlanDefinitionError):
                found[names.find(name, None) or name] = reason
        return found

    def _append(self, step: PlannedStep) -> None:
        """Append a step that has its own name; if that is not unique, use full names."""
        own, full_name = step.name, step.full_name
        names = self._names.get(own)
        if names is None:
            self._names[own] = {full_name: own}
            self.steps[own] = step
            return
        self._refuse_visible_twin(step, names.values())
        if own in self.steps and own not in self._settled:
            self._use_full_name(own)
        names[full_name] = full_name
        self.steps[full_name] = step._replace(name=full_name)

    def _use_full_name(self, name: str) -> None:
        """Call a step by its full name from now on."""
        full_name = self.steps[name].full_name
        steps = [
            step if step.name != name else step._replace(name=full_name)
            for step in self.steps.values()
        ]
        self.steps.clear()
        self.steps.update({step.name: step for step in steps})
        self._names[name][full_name] = full_name

    def _refuse_visible_twin(self, step: PlannedStep, names: Iterable[str]) -> None:
        """Raise an error if some test sees both this step and another one with its own name."""
        for name in names:
            twin = self.steps[name]
            shorter = min(len(twin.scope), len(step.scope))
            is_visible = twin.scope[:shorter] == step.scope[:shorter]
            # In rootdir, the full name is the own name, which the other step may have kept.
            if is_visible or (name == step.full_name and name in self._settled):
                raise PlanDefinitionError(
                    f"two steps are called {step.name!r}: {twin.origin} and {step.origin}; "
                    "rename one",
                    step=name,
                )
