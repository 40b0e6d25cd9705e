"""The results of a run, and the errors that carry them.

All of them support pickling, copying and `repr`. This module does not postpone annotations, because
Python would then compile each one of a named tuple separately.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar

from pytest_plan.engine.model.errors import PlanError, describe, picklable
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome

T = TypeVar("T")


class StepError(PlanError):
    """A step failed. Its `__cause__` is the user's exception.

    Attributes:
        step: name of the step.
        hook: name of the hook that failed (`pre_exec`, `exec`, `post_exec`, `cleanup`).
        attempt: number of the failed attempt, counted from 1.
        result: the `PlanResult` of the run if `execute()` raised this error, else None.
        cleanup_error: the `CleanupError` of the same run; None if cleanup succeeded.
    """

    __module__ = "pytest_plan"

    def __init__(self, message: str, *, step: str, hook: str, attempt: int) -> None:
        super().__init__(message)
        self.step = step
        self.hook = hook
        self.attempt = attempt
        self.result: PlanResult | None = None
        self.cleanup_error: CleanupError | None = None

    @property
    def summary(self) -> str:
        """The type and message of the user's exception, on one line."""
        return describe(self.__cause__ or self)


class StepTimeoutError(StepError, TimeoutError):
    """An attempt exceeded its step's `timeout`, or a cleanup exceeded its time limit."""

    __module__ = "pytest_plan"


class PlanCancelledError(PlanError):
    """The plan was cancelled (gsd: ErrCancelled).

    Attributes:
        result: the `PlanResult` of the run if `execute()` raised this error, else None.
        cleanup_error: the `CleanupError` of the same run; None if cleanup succeeded.
    """

    __module__ = "pytest_plan"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.result: PlanResult | None = None
        self.cleanup_error: CleanupError | None = None


class PlanTimeoutError(PlanError, TimeoutError):
    """The plan exceeded its limit (gsd: ErrTimeout).

    Attributes:
        result: the `PlanResult` of the run if `execute()` raised this error, else None.
        cleanup_error: the `CleanupError` of the same run; None if cleanup succeeded.
    """

    __module__ = "pytest_plan"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.result: PlanResult | None = None
        self.cleanup_error: CleanupError | None = None


class CleanupError(PlanError, ExceptionGroup[StepError]):
    """Some cleanups failed; the other cleanups ran.

    The group has one `StepError` with the hook `cleanup` for each failure.
    """

    __module__ = "pytest_plan"

    def __new__(cls, message: str, errors: Sequence[StepError]) -> Self:
        """Create the group; see `ExceptionGroup` for its methods."""
        return super().__new__(cls, message, errors)

    def __init__(self, message: str, errors: Sequence[StepError]) -> None:
        super().__init__(message, errors)
        self.result: PlanResult | None = None

    def derive(self, errors: Sequence[StepError], /) -> "CleanupError":  # type: ignore[override]
        """Return a `CleanupError` with `errors`; `split` and `except*` call this."""
        return CleanupError(self.message, errors)


def _result(kind: type[T]) -> type[T]:
    """Turn a named tuple into a result, which is public and equal only to results of its class.

    Without this decorator, named tuples of different classes are equal if their fields are equal.
    Dataclasses would take six times as long to define, in every run with steps.
    """
    kind.__module__ = "pytest_plan"
    kind.__eq__ = _are_equal  # type: ignore[assignment]
    kind.__ne__ = object.__ne__  # type: ignore[method-assign]
    kind.__hash__ = tuple.__hash__  # type: ignore[assignment]
    return kind


def _are_equal(self: tuple[Any, ...], other: object) -> bool:
    return type(other) is type(self) and tuple.__eq__(self, other)


@_result
class AttemptResult(NamedTuple):
    """One attempt of a step.

    Attributes:
        number: number of the attempt, counted from 1.
        hook: name of the last hook that ran.
        started: start time in seconds since the run began.
        seconds: duration of the attempt.
        error: the exception that ended the attempt; None if the attempt succeeded.
    """

    number: int
    hook: str
    started: float
    seconds: float
    error: BaseException | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        error = None if self.error is None else picklable(self.error)
        return AttemptResult, (self.number, self.hook, self.started, self.seconds, error)


@_result
class CleanupResult(NamedTuple):
    """The cleanup of a step.

    Attributes:
        outcome: status of the cleanup.
        started: start time in seconds since the run began; None if the cleanup did not start.
        seconds: duration of the cleanup.
        errors: the failures during cleanup.
        left: descriptions of everything that was not undone.
        ended: the processes that the programs of the step had left running, and that were ended.
        gone: why nothing is left although an undo has failed, with its error: a step that this one
            needs was lost, and what this one had made in it was gone, too. None if nothing failed,
            or if the cleanup counts as failed.
    """

    outcome: CleanupOutcome = CleanupOutcome.NONE
    started: float | None = None
    seconds: float = 0.0
    errors: tuple[StepError, ...] = ()
    left: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    gone: str | None = None


@_result
class Loss(NamedTuple):
    """How a step was lost: something that must keep running while tests run has ended.

    Attributes:
        at: when that was noticed, in seconds since the run began.
        program: the name of the program, or of the check that has failed.
        status: the exit status of the program, negative if a signal ended it; None for a check, and
            if the status is not known.
        detail: what happened, on one line, with secrets masked.
        wall: when that was noticed, in seconds since 1970 by the wall clock.
    """

    at: float
    program: str
    status: int | None
    detail: str
    wall: float = 0.0


@_result
class StepResult(NamedTuple):
    """The result of a step.

    Attributes:
        name: name of the step.
        outcome: status of the step.
        reason: why the step did not succeed; None if it succeeded.
        needs: names of the steps that the step needs.
        after: names of the steps that the step is ordered after.
        origin: `file:line` of the declaration.
        started: start time in seconds since the run began; None if the step did not run.
        seconds: duration of the step, including retries and its pause.
        attempts: every attempt, in order.
        attempts_allowed: the maximum number of attempts.
        error: the failure; None if the step did not fail.
        log_tail: the last lines of the step's log if the step failed, else empty.
        stack: the stack of the step's thread if the step was abandoned, else empty.
        cleanup: the result of the step's cleanup.
        lost: how the step was lost while tests ran, although it had succeeded; None if it was not.
    """

    name: str
    outcome: StepOutcome
    reason: str | None = None
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    origin: str = ""
    started: float | None = None
    seconds: float = 0.0
    attempts: tuple[AttemptResult, ...] = ()
    attempts_allowed: int = 1
    error: StepError | None = None
    log_tail: str = ""
    stack: str = ""
    cleanup: CleanupResult = CleanupResult()
    lost: Loss | None = None


@_result
class PlanResult(NamedTuple):
    """The result of a run.

    Attributes:
        run_id: identifier of the run.
        outcome: `succeeded`, `failed`, `cancelled` or `timed_out`.
        reason: why the plan stopped early; None if it did not stop early.
        seconds: duration of the run.
        limit: the plan's limit in seconds; None means no limit.
        steps: the result of every step by name, in the plan's order.
        left: descriptions of everything that cleanup could not undo.
        listener_errors: the exceptions that listeners raised, one line each.
    """

    run_id: str
    outcome: StepOutcome
    reason: str | None
    seconds: float
    limit: float | None
    steps: Mapping[str, StepResult]
    left: tuple[str, ...] = ()
    listener_errors: tuple[str, ...] = ()

    def failures(self) -> list[StepError]:
        """Return the errors of all failed steps, in the order of the steps."""
        return [step.error for step in self.steps.values() if step.error is not None]

    def raise_for_failures(self) -> None:
        """Raise an `ExceptionGroup` of `failures()`; do nothing if no step failed."""
        if failures := self.failures():
            steps = "1 step" if len(failures) == 1 else f"{len(failures)} steps"
            raise ExceptionGroup(f"{steps} failed", failures)


def critical_path(steps: Mapping[str, StepResult]) -> tuple[str, ...]:
    """Return the chain of steps that determined how long provisioning took, in running order.

    Each step in the chain was the last to end of the steps that the next one waited for.
    """
    ends = {
        name: step.started + step.seconds
        for name, step in steps.items()
        if step.started is not None
    }
    if not ends:
        return ()
    path = [max(ends, key=ends.__getitem__)]
    while before := [name for name in _edges(steps[path[-1]]) if name in ends]:
        path.append(max(before, key=ends.__getitem__))
    return tuple(reversed(path))


def _edges(step: StepResult) -> tuple[str, ...]:
    return (*step.needs, *step.after)
