"""The events of a run that listeners receive.

The thread that executes the plan calls the listeners one at a time. An exception in a listener
stops neither the run nor the other listeners. `at` is the time in seconds since the run began.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

from pytest_plan.engine.model.results import PlanResult, StepResult

T = TypeVar("T")


def _event(event: type[T]) -> type[T]:
    """Turn a named tuple into an event, which is public and equal only to itself.

    Without this decorator, named tuples of different classes are equal if their fields are equal.
    Dataclasses would take six times as long to define, in every run with steps. This module does
    not postpone annotations, because Python would then compile each one separately.
    """
    event.__module__ = "pytest_plan"
    event.__eq__ = object.__eq__  # type: ignore[method-assign]
    event.__ne__ = object.__ne__  # type: ignore[method-assign]
    event.__hash__ = object.__hash__  # type: ignore[method-assign]
    return event


@_event
class StepStarted(NamedTuple):
    """A step has begun its first attempt."""

    step: str
    at: float


@_event
class AttemptFailed(NamedTuple):
    """An attempt failed, and the step will be retried after `wait` seconds."""

    step: str
    attempt: int
    attempts: int
    error: BaseException
    wait: float
    at: float


@_event
class StepFinished(NamedTuple):
    """A step ended, or got its outcome without running. `result.cleanup` is not final yet."""

    result: StepResult
    at: float


@_event
class StepLost(NamedTuple):
    """Something that a step needs has ended while tests ran; `result.lost` says what and how."""

    result: StepResult
    at: float


@_event
class StopRequested(NamedTuple):
    """The plan is stopping because it was cancelled or reached its limit; `reason` says which."""

    reason: str
    at: float


@_event
class CleanupBegan(NamedTuple):
    """Cleanup has begun. `steps` is the number of steps to clean up."""

    steps: int
    reason: str
    at: float


@_event
class StepCleaned(NamedTuple):
    """The cleanup of a step has ended."""

    result: StepResult
    at: float


@_event
class CleanupInterrupted(NamedTuple):
    """A signal arrived during cleanup, which continues. `steps` are not cleaned up yet."""

    steps: tuple[str, ...]
    at: float


@_event
class Waiting(NamedTuple):
    """No event has occurred for about a second.

    `steps` lists the running steps, each with the seconds since it began.
    """

    steps: tuple[tuple[str, float], ...]
    cleaning: bool
    at: float


@_event
class PlanFinished(NamedTuple):
    """The run has ended."""

    result: PlanResult
    at: float


Event: TypeAlias = (
    StepStarted
    | AttemptFailed
    | StepFinished
    | StepLost
    | StopRequested
    | CleanupBegan
    | StepCleaned
    | CleanupInterrupted
    | Waiting
    | PlanFinished
)
Listener: TypeAlias = Callable[[Event], None]
