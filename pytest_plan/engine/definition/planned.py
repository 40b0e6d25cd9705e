"""A declared step, with its checked options and its place in the plan."""

# Annotations are not postponed: a NamedTuple would compile each of them.
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pytest_plan.engine.definition.names import Names, full_name
from pytest_plan.engine.definition.options import UNHURRIED, StepOptions
from pytest_plan.engine.definition.signature import HookFunction
from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.model.outcomes import Hook

_NO_CHOICE: Final[Mapping[str, int]] = {}


class Instance(NamedTuple):
    """What distinguishes an instance of a step from the other instances.

    Attributes:
        template: the name of the step in the run.
        worker: the worker that the instance is for; None means that it is for all.
        choice: the position of the chosen parameter, by the name of the step that has parameters:
            the step itself, or a step that it needs, directly or not.
        param: the step's own parameter; None if it has none.
    """

    template: str
    worker: str | None
    choice: Mapping[str, int]
    param: Any = None

    def agrees(self, choice: Mapping[str, int], worker: str | None) -> bool:
        """Return whether code that belongs to a worker and has chosen parameters can mean this.

        Args:
            choice: the chosen parameters; of a step that is missing, it can mean each.
            worker: the worker; None means that it can mean the instance of each.
        """
        if worker is not None and self.worker not in (None, worker):
            return False
        return all(choice.get(step, position) == position for step, position in self.choice.items())


class PlannedStep(NamedTuple):
    """A step of a plan, or an instance of a step.

    Attributes:
        name: name of the step, unique in the plan: its own name, or its full name; of an instance,
            that name with the parameters and the worker.
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
        instance: what distinguishes this instance; None if the step has no instances.
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
    instance: Instance | None = None

    @property
    def is_generator(self) -> bool:
        """Whether its `exec` hook yields, so that there is code to run after the `yield`."""
        return Hook.EXEC in self.hooks and self.hooks[Hook.EXEC].kind.yields

    @property
    def template(self) -> str:
        """The name of the step in the run, without what distinguishes its instances."""
        return self.name if self.instance is None else self.instance.template

    @property
    def worker(self) -> str | None:
        """The worker that this instance is for; None if it is for all."""
        return None if self.instance is None else self.instance.worker

    @property
    def param(self) -> Any:
        """The parameter of this instance; None if the step itself has no parameters."""
        return None if self.instance is None else self.instance.param

    @property
    def choice(self) -> Mapping[str, int]:
        """The chosen parameters; see `Instance`."""
        return _NO_CHOICE if self.instance is None else self.instance.choice

    @property
    def shared_name(self) -> str:
        """The name without the worker, which the instances for all workers share."""
        worker = self.worker
        return self.name if worker is None else self.name.removesuffix(f"@{worker}")

    @property
    def full_name(self) -> str:
        """The full name, which is unique in all plans of a project."""
        return full_name(self.folder, self.name) if self.folder else self.name

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of all steps that must end before this step begins."""
        return (*self.needs, *self.after)

    def without_limits(self) -> "PlannedStep":
        """Return the same step without a timeout, and with a day for its cleanup."""
        options = self.options._replace(timeout=None, cleanup_timeout=UNHURRIED)
        return self._replace(options=options)
