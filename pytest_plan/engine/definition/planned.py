"""A declared step together with its checked options and its place in the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pytest_plan.engine.definition.options import StepOptions
from pytest_plan.engine.definition.signature import HookFunction
from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.model.outcomes import Hook


class PlannedStep(NamedTuple):
    """A step of a plan.

    Attributes:
        name: name of the step, unique in the plan.
        step: the step object that the user gave.
        hooks: the hooks that the step defines.
        options: its checked options.
        origin: `file:line` of the declaration.
        scope: the folder of the declaration as path parts; a step is ordered after the steps
            declared before it in the same scope or in a scope that contains it.
        needs: names of the steps that must have succeeded, whether named or taken as a
            parameter.
        after: names of the steps that must have ended (order edges); only the fewest that
            imply all others.
    """

    name: str
    step: Step
    hooks: Mapping[Hook, HookFunction]
    options: StepOptions
    origin: str
    scope: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of all steps that must have ended before this one begins."""
        return (*self.needs, *self.after)
