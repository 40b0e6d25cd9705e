"""A step in its plan: its options, checked, and its place."""

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
        name: unique in the plan.
        step: the step itself.
        hooks: the hooks that it has.
        options: its options.
        origin: `file:line` of the declaration.
        scope: the folder of the declaration as path parts; a step is ordered after those
            declared before it in the same scope or in one that contains it.
        needs: steps that must have succeeded, named or taken as a parameter.
        after: steps that must have ended (order edges), fewest that imply the rest.
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
        """Every step that must have ended before this one begins."""
        return (*self.needs, *self.after)
