"""A declared step, with its checked options and its place in the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pytest_plan.engine.definition.names import Names, full_name
from pytest_plan.engine.definition.options import StepOptions
from pytest_plan.engine.definition.signature import HookFunction
from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.model.outcomes import Hook


class PlannedStep(NamedTuple):
    """A step of a plan.

    Attributes:
        name: name of the step, unique in the plan: its own name, or its full name.
        step: the step object that the user passed.
        hooks: the hooks that the step defines.
        options: the checked options of the step.
        origin: `file:line` of the declaration.
        scope: the parts of the path of the declaring folder; a step is ordered after the steps
            declared before it in the same scope or in a scope that contains it.
        needs: names of the steps that must succeed first: those listed in the option `needs` and
            those that hooks take as parameters.
        after: names of the steps that must end first (order edges), without those that the
            other edges imply.
        folder: the folder in the step's full name; "" if the full name has none.
        names: what names mean to the step's hooks; None means that every name is as it is.
    """

    name: str
    step: Step
    hooks: Mapping[Hook, HookFunction]
    options: StepOptions
    origin: str
    scope: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    folder: str = ""
    names: Names | None = None

    @property
    def full_name(self) -> str:
        """The full name, which is unique in all plans of a project."""
        return full_name(self.folder, self.name) if self.folder else self.name

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of all steps that must end before this step begins."""
        return (*self.needs, *self.after)
