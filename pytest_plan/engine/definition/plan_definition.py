"""The definition of a plan: its declared steps and the options of its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_plan.engine.definition.graph import OWN_PARAMETERS, VALUE, link
from pytest_plan.engine.definition.options import OPTION_NAMES, RunOptions, check_options
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.definition.signature import hooks_of
from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.model.errors import PlanDefinitionError


class PlanDefinition:
    """The steps of a plan, in the order of their declaration. Each is checked when declared.

    Attributes:
        options: the options of the run.
        steps: the declared steps by name, without edges.
        refusal: the reason why `Plan.execute` and `Plan.provisioned` must not be called; empty if
            they may be called.
    """

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.refusal = ""
        self.steps: dict[str, PlannedStep] = {}
        self._skipped: dict[str, str] = {}

    def declare(
        self,
        step: Step,
        name: str,
        options: Mapping[str, Any],
        origin: str,
        scope: tuple[str, ...] = (),
    ) -> None:
        """Append a step.

        Args:
            step: the step.
            name: the name of the step, which the caller has generated or checked with `check_name`.
            options: the options of the step. A missing option is taken from the step's attribute
                of the same name, or else is the default.
            origin: `file:line` of the declaration.
            scope: the folder of the declaration; see `PlannedStep`.

        Raises:
            PlanDefinitionError: the step, its name or an option is invalid.
        """
        if not isinstance(step, Step):
            raise PlanDefinitionError(
                f"{origin}: {step!r} is not a step; pass an instance of Step or GenericStep"
            )
        self._check_name(name, origin)
        attributes = {
            option: getattr(step, option) for option in OPTION_NAMES if hasattr(step, option)
        }
        checked = check_options({**attributes, **options}, name, origin)
        self.steps[name] = PlannedStep(name, step, hooks_of(step, name), checked, origin, scope)

    def skip(self, name: str, reason: str) -> None:
        """Skip a step, and every step that needs it, as if the step had called `pytest.skip`."""
        self._skipped[name] = reason

    def linked(self) -> dict[str, PlannedStep]:
        """Return the steps by name with their edges, in the order of their declaration.

        Raises:
            PlanDefinitionError: a step needs an unknown step, or the edges form a cycle.
        """
        steps = [
            step._replace(options=step.options._replace(skip=self._skipped[name]))
            if name in self._skipped
            else step
            for name, step in self.steps.items()
        ]
        return link(steps, self.options.parameters)

    def _check_name(self, name: str, origin: str) -> None:
        if name in (*OWN_PARAMETERS, VALUE, *self.options.parameters):
            raise PlanDefinitionError(
                f"{origin}: {name!r} is a reserved name; rename the step", step=name
            )
        twin = self.steps.get(name)
        if twin is not None:
            raise PlanDefinitionError(
                f"two steps are called {name!r}: {twin.origin} and {origin}; rename one", step=name
            )
