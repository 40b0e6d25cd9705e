"""The events of a run, as listeners get them.

Listeners are called one at a time, on the thread that executes the plan. An error in a listener
ends neither the run nor the other listeners. `at` is the time in seconds since the run began.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

from pytest_plan.engine.model.results import PlanResult, StepResult

T = TypeVar("T")


def _equal_by_identity(event: type[T]) -> type[T]:
    """Make an event equal to itself alone: named tuples of two kinds compare by their fields.

    Named tuples, because a dataclass takes six times as long to define, in every run with steps.
    Postponed annotations would be compiled one by one.
    """
    event.__eq__ = object.__eq__  # type: ignore[method-assign]
    event.__ne__ = object.__ne__  # type: ignore[method-assign]
    event.__hash__ = object.__hash__  # type: ignore[method-assign]
    return event


@_equal_by_identity
class StepStarted(NamedTuple):
    """A step began its first attempt."""

    step: str
    at: float


@_equal_by_identity
class AttemptFailed(NamedTuple):
    """An attempt failed and the step will be tried again after `wait` seconds."""

    step: str
    attempt: int
    attempts: int
    error: BaseException
    wait: float
    at: float


@_equal_by_identity
class StepFinished(NamedTuple):
    """A step ended, or was decided without running; `result.cleanup` is still to come."""

    result: StepResult
    at: float


@_equal_by_identity
class StopRequested(NamedTuple):
    """Something makes the plan stop."""

    reason: str
    at: float


@_equal_by_identity
class CleanupBegan(NamedTuple):
    """The reverse phase began, for this many steps."""

    steps: int
    reason: str
    at: float


@_equal_by_identity
class StepCleaned(NamedTuple):
    """The cleanup of a step ended."""

    result: StepResult
    at: float


@_equal_by_identity
class CleanupInterrupted(NamedTuple):
    """A signal came while cleanup runs; it goes on with these steps."""

    steps: tuple[str, ...]
    at: float


@_equal_by_identity
class Waiting(NamedTuple):
    """Nothing happened for about a second; these steps run, since so many seconds."""

    steps: tuple[tuple[str, float], ...]
    cleaning: bool
    at: float


@_equal_by_identity
class PlanFinished(NamedTuple):
    """The run is over."""

    result: PlanResult
    at: float


Event: TypeAlias = (
    StepStarted
    | AttemptFailed
    | StepFinished
    | StopRequested
    | CleanupBegan
    | StepCleaned
    | CleanupInterrupted
    | Waiting
    | PlanFinished
)
Listener: TypeAlias = Callable[[Event], None]
