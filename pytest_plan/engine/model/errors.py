"""Every error the engine raises.

All of them pickle, copy and repr: xdist and process pools carry errors between processes.
What cannot be pickled inside one (a user's exception, a lock) is replaced by its text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


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

    __module__ = "pytest_plan"

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

    __module__ = "pytest_plan"

    def __init__(
        self, message: str, *, step: str | None = None, parameter: str | None = None
    ) -> None:
        super().__init__(message)
        self.step = step
        self.parameter = parameter


class StateError(PlanError):
    """A key or value that `State` refuses: the message names the key and the rule."""

    __module__ = "pytest_plan"


class JournalError(PlanError):
    """The journal cannot be kept or read: the message says which file and what to do."""

    __module__ = "pytest_plan"
