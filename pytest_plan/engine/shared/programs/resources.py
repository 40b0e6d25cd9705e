"""What steps run outside of this machine's processes, such as containers.

A deferred call names such a resource if its function has a keeper. Then a later run that reuses the
step finds out whether the resource still works, and watches it.
"""

# Annotations are not postponed: a NamedTuple would compile each of them.
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from pytest_plan.engine.shared.log import StepLog
from pytest_plan.engine.shared.programs.checks import Checks
from pytest_plan.engine.shared.programs.programs import Programs

OWN = "pytest_plan.steps."  # the modules whose functions can have keepers
_KEEPER = "_pytest_plan_keeper"
F = TypeVar("F", bound=Callable[..., Any])


class Care(NamedTuple):
    """What a step offers to its resources.

    Attributes:
        step: the step's name.
        programs: the programs that must keep running.
        checks: the checks that are called while tests run.
        log: the log of the step.
        is_kept: whether an earlier run has made the resources.
    """

    step: str
    programs: Programs
    checks: Checks
    log: StepLog
    is_kept: bool = False


class Keeper(Protocol):
    """Looks after the resources that a deferred call names, in a later run."""

    def failure(self, *args: Any) -> str | None:
        """Return why a resource does not work any more; None if all work.

        Args:
            args: the arguments of the deferred call.
        """

    def resume(self, care: Care, *args: Any) -> None:
        """Watch the resources, whose step is reused.

        Args:
            care: what the step offers.
            args: the arguments of the deferred call.
        """


def kept_by(keeper: Keeper) -> Callable[[F], F]:
    """Return a decorator for a function of a deferred call that names resources."""

    def decorate(function: F) -> F:
        setattr(function, _KEEPER, keeper)
        return function

    return decorate


def keeper_of(function: object) -> Keeper | None:
    """Return the keeper of the resources that calls of a function name; None if there is none."""
    keeper: Keeper | None = getattr(function, _KEEPER, None)
    return keeper
