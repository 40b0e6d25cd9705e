"""What happens in a run, told to whoever listens.

Listeners are called one at a time, on the thread that executes the plan. An error in a listener
ends neither the run nor the other listeners. `at` is seconds since the run began.
Named tuples: dataclasses take several times as long to define, in every run with steps, and
so do annotations that are postponed, each of which is compiled on its own.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from pytest_plan.engine.model.results import PlanResult, StepResult


class StepStarted(NamedTuple):
    """A step began its first attempt."""

    step: str
    at: float


class AttemptFailed(NamedTuple):
    """An attempt failed and the step will be tried again after `wait` seconds."""

    step: str
    attempt: int
    attempts: int
    error: BaseException
    wait: float
    at: float


class StepFinished(NamedTuple):
    """A step ended, or was decided without running; `result.cleanup` is still to come."""

    result: StepResult
    at: float


class StopRequested(NamedTuple):
    """Something makes the plan stop."""

    reason: str
    at: float


class CleanupBegan(NamedTuple):
    """The reverse phase began, for this many steps."""

    steps: int
    reason: str
    at: float


class StepCleaned(NamedTuple):
    """The cleanup of a step ended."""

    result: StepResult
    at: float


class CleanupInterrupted(NamedTuple):
    """A signal came while cleanup runs; it goes on with these steps."""

    steps: tuple[str, ...]
    at: float


class Waiting(NamedTuple):
    """Nothing happened for about a second; these steps run, since so many seconds."""

    steps: tuple[tuple[str, float], ...]
    cleaning: bool
    at: float


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
