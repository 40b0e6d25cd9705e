"""Every error the engine raises.

All of them pickle, copy and repr: xdist and process pools carry errors between processes.
What cannot be pickled inside one (a user's exception, a lock) is replaced by its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pytest_plan.engine.model.results import PlanResult


def picklable(error: BaseException) -> BaseException:
    """Return `error` itself if it survives pickling, else a `PlanError` with its type and text."""
    import pickle

    if isinstance(error, PlanError):
        return error
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes, made in this line
    except Exception:
        return PlanError(describe(error))
    return error


def describe(error: BaseException) -> str:
    """Return `Type: text` of an exception on one line, or `Type` alone when it has no text."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "(its text cannot be shown)"
    name = type(error).__qualname__
    return f"{name}: {text}" if text else name


def _rebuild(cls: type[PlanError], args: tuple[Any, ...]) -> PlanError:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


class PlanError(Exception):
    """Base of every error of pytest-plan."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The attributes go in as state, after the error itself is known to the pickle: its
        # result leads back to it.
        attributes = {
            name: picklable(value) if isinstance(value, BaseException) else value
            for name, value in self.__dict__.items()
        }
        if self.__cause__ is not None:
            attributes["__cause__"] = picklable(self.__cause__)
        return _rebuild, (type(self), self.args), attributes


class PlanDefinitionError(PlanError, ValueError):
    """The plan cannot run as it is written: raised before any step runs.

    Attributes:
        step: name of the step at fault, None when the plan as a whole is.
        parameter: name of the parameter at fault, None when there is none.
    """

    def __init__(
        self, message: str, *, step: str | None = None, parameter: str | None = None
    ) -> None:
        super().__init__(message)
        self.step = step
        self.parameter = parameter


class StateError(PlanError):
    """A key or value that `State` refuses: the message names the key and the rule."""


class JournalError(PlanError):
    """The journal cannot be kept or read: the message says which file and what to do."""


class StepError(PlanError):
    """A step failed; `__cause__` is the user's exception.

    Attributes:
        step: name of the step.
        hook: name of the hook that failed (`pre_exec`, `exec`, `post_exec`, `cleanup`).
        attempt: the attempt that failed, counted from 1.
        result: the `PlanResult` of the run when `execute()` raised this, else None.
        cleanup_error: the `CleanupError` of the same run, None when cleanup succeeded.
    """

    def __init__(self, message: str, *, step: str, hook: str, attempt: int) -> None:
        super().__init__(message)
        self.step = step
        self.hook = hook
        self.attempt = attempt
        self.result: PlanResult | None = None
        self.cleanup_error: CleanupError | None = None


class StepTimeoutError(StepError, TimeoutError):
    """An attempt took longer than its step's `timeout`, or a cleanup longer than its budget."""


class PlanCancelledError(PlanError):
    """The plan was cancelled (gsd: ErrCancelled).

    Attributes:
        result: the `PlanResult` of the run when `execute()` raised this, else None.
        cleanup_error: the `CleanupError` of the same run, None when cleanup succeeded.
    """

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

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.result: PlanResult | None = None
        self.cleanup_error: CleanupError | None = None


class CleanupError(PlanError, ExceptionGroup[StepError]):
    """Some cleanups failed; the others ran. One `StepError` with hook `cleanup` each."""

    def __new__(cls, message: str, errors: Sequence[StepError]) -> Self:
        """Build the group; see `ExceptionGroup` for what its methods do."""
        return super().__new__(cls, message, errors)

    def __init__(self, message: str, errors: Sequence[StepError]) -> None:
        super().__init__(message, errors)
        self.result: PlanResult | None = None

    def derive(self, errors: Sequence[StepError], /) -> CleanupError:  # type: ignore[override]
        """Return a group of the same class with `errors`, as `split` and `except*` need."""
        return CleanupError(self.message, errors)
