"""The base errors of the engine. The errors that carry results are in `results`.

Every error supports pickling, copying and `repr`, because pytest-xdist and process pools send
errors between processes. Pickling replaces a user's exception that cannot be pickled by its text.
"""

from __future__ import annotations

from typing import Any


def picklable(error: BaseException) -> BaseException:
    """Return `error` if it can be pickled, else a `PlanError` with its type and text."""
    import pickle

    if isinstance(error, PlanError):
        return error
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - bytes pickled in this line
    except Exception:
        return PlanError(describe(error))
    return error


def describe(error: BaseException) -> str:
    """Return the exception as `Type: text` on one line, or just `Type` if it has no text."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "<exception str() failed>"
    name = type(error).__qualname__
    return f"{name}: {text}" if text else name


def _rebuild(cls: type[PlanError], args: tuple[Any, ...]) -> PlanError:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


class PlanError(Exception):
    """Base class of all pytest-plan errors."""

    __module__ = "pytest_plan"

    def __reduce__(self) -> tuple[Any, ...]:
        # The attributes are pickled as state, after the error itself, because one of them, the
        # result, refers back to the error.
        attributes = {
            name: picklable(value) if isinstance(value, BaseException) else value
            for name, value in self.__dict__.items()
        }
        if self.__cause__ is not None:
            attributes["__cause__"] = picklable(self.__cause__)
        return _rebuild, (type(self), self.args), attributes


class PlanDefinitionError(PlanError, ValueError):
    """The plan is invalid. This error is raised before any step runs.

    Attributes:
        step: name of the invalid step; None if the error concerns the whole plan.
        parameter: name of the invalid hook parameter; None if the error concerns no parameter.
    """

    __module__ = "pytest_plan"

    def __init__(
        self, message: str, *, step: str | None = None, parameter: str | None = None
    ) -> None:
        super().__init__(message)
        self.step = step
        self.parameter = parameter


class StateError(PlanError):
    """The State refused an operation. The message names the key and the rule."""

    __module__ = "pytest_plan"


class JournalError(PlanError):
    """The journal cannot be written or read. The message names the file and says what to do."""

    __module__ = "pytest_plan"
