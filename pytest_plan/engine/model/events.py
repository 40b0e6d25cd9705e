"""The events of a run, as listeners get them.

Listeners are called one at a time, on the thread that executes the plan. An error in a listener
ends neither the run nor the other listeners. `at` is the time in seconds since the run began.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

from pytest_plan.engine.model.results import PlanResult, StepResult

T = TypeVar("T")


def _event(event: type[T]) -> type[T]:
    """Make a named tuple an event: public, and equal to itself alone.

    Plain named tuples of two kinds are equal when their fields are. Dataclasses are not used
    because they take six times as long to define, in every run with steps; annotations are not
    postponed because each would be compiled on its own.
    """
    event.__module__ = "pytest_plan"
    event.__eq__ = object.__eq__  # type: ignore[method-assign]
    event.__ne__ = object.__ne__  # type: ignore[method-assign]
    event.__hash__ = object.__hash__  # type: ignore[method-assign]
    return event


@_event
class StepStarted(NamedTuple):
    """A step began its first attempt."""

    step: str
    at: float


@_event
class AttemptFailed(NamedTuple):
    """An attempt failed and the step will be tried again after `wait` seconds."""

    step: str
    attempt: int
    attempts: int
    error: BaseException
    wait: float
    at: float


@_event
class StepFinished(NamedTuple):
    """A step ended, or was decided without running; `result.cleanup` is still to come."""

    result: StepResult
    at: float


@_event
class StopRequested(NamedTuple):
    """Something makes the plan stop."""

    reason: str
    at: float


@_event
class CleanupBegan(NamedTuple):
    """The reverse phase began, for this many steps."""

    steps: int
    reason: str
    at: float


@_event
class StepCleaned(NamedTuple):
    """The cleanup of a step ended."""

    result: StepResult
    at: float


@_event
class CleanupInterrupted(NamedTuple):
    """A signal came while cleanup runs; it goes on with these steps."""

    steps: tuple[str, ...]
    at: float


@_event
class Waiting(NamedTuple):
    """Nothing happened for about a second; these steps run, since so many seconds."""

    steps: tuple[tuple[str, float], ...]
    cleaning: bool
    at: float


@_event
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
