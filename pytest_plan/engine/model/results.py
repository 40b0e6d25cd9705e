"""The results of a run, and the errors that carry them. All of them pickle, copy and repr."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pytest_plan.engine.model.errors import PlanError, describe, picklable
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome


class StepError(PlanError):
    """A step failed; `__cause__` is the user's exception.

    Attributes:
        step: name of the step.
        hook: name of the hook that failed (`pre_exec`, `exec`, `post_exec`, `cleanup`).
        attempt: the attempt that failed, counted from 1.
        result: the `PlanResult` of the run when `execute()` raised this, else None.
        cleanup_error: the `CleanupError` of the same run, None when cleanup succeeded.
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
        """The class and message of the user's exception, on one line."""
        return describe(self.__cause__ or self)


class StepTimeoutError(StepError, TimeoutError):
    """An attempt took longer than its step's `timeout`, or a cleanup longer than its budget."""

    __module__ = "pytest_plan"


class PlanCancelledError(PlanError):
    """The plan was cancelled (gsd: ErrCancelled).

    Attributes:
        result: the `PlanResult` of the run when `execute()` raised this, else None.
        cleanup_error: the `CleanupError` of the same run, None when cleanup succeeded.
    """

    __module__ = "pytest_plan"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.result: PlanResult | None = None
        self.cleanup_error: CleanupError | None = None


class PlanTimeoutError(PlanError, TimeoutError):
    """The plan took longer than its limit (gsd: ErrTimeout).

    Attributes:
        result: the `PlanResult` of the run when `execute()` raised this, else None.
        cleanup_error: the `CleanupError` of the same run, None when cleanup succeeded.
    """

    __module__ = "pytest_plan"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.result: PlanResult | None = None
        self.cleanup_error: CleanupError | None = None


class CleanupError(PlanError, ExceptionGroup[StepError]):
    """Some cleanups failed; the others ran. One `StepError` with hook `cleanup` each."""

    __module__ = "pytest_plan"

    def __new__(cls, message: str, errors: Sequence[StepError]) -> Self:
        """Build the group; see `ExceptionGroup` for what its methods do."""
        return super().__new__(cls, message, errors)

    def __init__(self, message: str, errors: Sequence[StepError]) -> None:
        super().__init__(message, errors)
        self.result: PlanResult | None = None

    def derive(self, errors: Sequence[StepError], /) -> "CleanupError":  # type: ignore[override]
        """Return a group of the same class with `errors`, as `split` and `except*` need."""
        return CleanupError(self.message, errors)


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """One attempt of a step.

    Attributes:
        number: counted from 1.
        hook: the last hook that was called.
        started: seconds since the run began.
        seconds: how long it took.
        error: what it failed with, None when it succeeded.
    """

    __module__ = "pytest_plan"

    number: int
    hook: str
    started: float
    seconds: float
    error: BaseException | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        error = None if self.error is None else picklable(self.error)
        return AttemptResult, (self.number, self.hook, self.started, self.seconds, error)


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """The cleanup of a step.

    Attributes:
        outcome: how it ended.
        started: seconds since the run began, None when it did not start.
        seconds: how long it took.
        errors: what failed in it.
        left: what was not taken back, in words.
    """

    __module__ = "pytest_plan"

    outcome: CleanupOutcome = CleanupOutcome.NONE
    started: float | None = None
    seconds: float = 0.0
    errors: tuple[StepError, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step came to.

    Attributes:
        name: name of the step.
        outcome: how it ended.
        reason: why it did not succeed, in words; None when it did.
        needs: the steps that it needs.
        after: the steps that it is ordered after.
        origin: `file:line` of the declaration.
        started: seconds since the run began, None when it did not run.
        seconds: how long it took, retries and pause included.
        attempts: every attempt, in order.
        attempts_allowed: at most so many.
        error: what it failed with, None when it did not.
        log_tail: the last lines of its log, when it failed.
        stack: where it was stuck, when it had to be abandoned.
        cleanup: how its cleanup ended.
    """

    __module__ = "pytest_plan"

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


@dataclass(frozen=True, slots=True)
class PlanResult:
    """What a run came to.

    Attributes:
        run_id: names the run.
        outcome: `succeeded`, `failed`, `cancelled` or `timed_out`.
        reason: why the plan stopped early, None when it did not.
        seconds: how long it took.
        limit: the plan's limit in seconds, None when it had none.
        steps: every step by name, in their order.
        left: what cleanup could not take back, in words.
        listener_errors: what listeners raised, one line each.
    """

    __module__ = "pytest_plan"

    run_id: str
    outcome: StepOutcome
    reason: str | None
    seconds: float
    limit: float | None
    steps: Mapping[str, StepResult]
    left: tuple[str, ...] = ()
    listener_errors: tuple[str, ...] = ()

    def failures(self) -> list[StepError]:
        """Return the error of every failed step, in their order."""
        return [step.error for step in self.steps.values() if step.error is not None]

    def raise_for_failures(self) -> None:
        """Raise an `ExceptionGroup` of all failed steps; nothing when there is none."""
        if failures := self.failures():
            raise ExceptionGroup(f"{len(failures)} steps failed", failures)


def critical_path(steps: Mapping[str, StepResult]) -> tuple[str, ...]:
    """Return the chain of steps that decided how long provisioning took, first step first.

    Each is the one that ended last among those its successor had to wait for.
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
