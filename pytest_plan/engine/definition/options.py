"""options."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pytest_plan.engine.definition.names import suggest
from pytest_plan.engine.model.durations import parse_duration
from pytest_plan.engine.model.errors import PlanDefinitionError

DEFAULT_CLEANUP_TIMEOUT = 60.0


class StepOptions(NamedTuple):
    """The options of a step, each valid.

    Attributes:
        needs: names of the steps that must have succeeded; None means none is named, and the
            step keeps its place in the list.
        retries: how often a failed attempt is repeated.
        retry_wait: seconds between attempts, or a tenacity wait; None means exponential
            with jitter, from 0.5 to 30 s.
        retry_on: the exceptions that are retried.
        timeout: seconds for one attempt; None means no limit.
        cleanup_timeout: seconds for the whole cleanup of the step.
        cleanup_when: `succeeded` or `attempted`: what the `cleanup` hook asks of the step.
        pause: seconds to wait after the step.
        inputs: files that the step depends on, as globs relative to its declaration or as
            absolute paths: a change makes it new.
        autouse: every test at or below the place of declaration needs the step (plugin).
        eager: provisioned before collection (plugin).
        skip: why the step is skipped; None means it is not.
    """

    needs: tuple[str, ...] | None = None
    retries: int = 0
    retry_wait: float | Callable[..., float] | None = None
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    timeout: float | None = None
    cleanup_timeout: float = DEFAULT_CLEANUP_TIMEOUT
    cleanup_when: str = "succeeded"
    pause: float = 0.0
    inputs: tuple[str, ...] = ()
    autouse: bool = False
    eager: bool = False
    skip: str | None = None


OPTION_NAMES = StepOptions._fields


def check_options(values: Mapping[str, Any], name: str, origin: str) -> StepOptions:
    """Return the options of step `name`; raise PlanDefinitionError for an unusable one."""
    for option in values:
        if option not in OPTION_NAMES:
            raise PlanDefinitionError(
                f"step {name!r} ({origin}): unknown option {option!r}"
                f"{suggest(option, OPTION_NAMES)}; the options are {', '.join(OPTION_NAMES)}",
                step=name,
            )
    checked = {
        option: _CHECKS[option](value, f"{option} of step {name!r} ({origin})")
        for option, value in values.items()
    }
    return StepOptions(**checked)


def check_jobs(value: object, what: str) -> int:
    """Return `value` if it can be a number of jobs: a whole number, 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _refuse(what, "a whole number, 1 or more", value)
    return value


def _refuse(what: str, wanted: str, value: object) -> PlanDefinitionError:
    return PlanDefinitionError(f"{what} must be {wanted}, not {value!r}")


def _names(value: Any, what: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    try:
        names = tuple(value)
    except TypeError:
        raise _refuse(what, "a list of step names", value) from None
    if not all(isinstance(name, str) for name in names):
        raise _refuse(what, "a list of step names", value)
    return tuple(dict.fromkeys(names))


def _count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _refuse(what, "a whole number, 0 or more", value)
    return value


def _wait(value: Any, what: str) -> float | Callable[..., float] | None:
    if value is None or (callable(value) and not isinstance(value, type)):
        return value
    return parse_duration(value, what)


def _exceptions(value: Any, what: str) -> tuple[type[BaseException], ...]:
    kinds = value if isinstance(value, (tuple, list)) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise _refuse(what, "an exception class or a tuple of them", value)
    return tuple(kinds)


def _timeout(value: Any, what: str) -> float | None:
    return None if value is None else parse_duration(value, what, zero=False)


def _cleanup_timeout(value: Any, what: str) -> float:
    return DEFAULT_CLEANUP_TIMEOUT if value is None else parse_duration(value, what, zero=False)


def _when(value: Any, what: str) -> str:
    if value not in ("succeeded", "attempted"):
        raise _refuse(what, "'succeeded' or 'attempted'", value)
    return str(value)


def _pause(value: Any, what: str) -> float:
    return 0.0 if value is None else parse_duration(value, what)


def _inputs(value: Any, what: str) -> tuple[str, ...]:
    given = value if isinstance(value, (list, tuple)) else [value]
    paths: list[Any] = [getattr(one, "__file__", one) for one in given]  # a module means its file
    if not all(isinstance(path, (str, os.PathLike)) for path in paths):
        raise _refuse(what, "a glob, a module, or a list of them", value)
    return tuple(os.fspath(path) for path in paths)


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise _refuse(what, "True or False", value)
    return value


def _reason(value: Any, what: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise _refuse(what, "a reason in words", value)


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "needs": _names,
    "retries": _count,
    "retry_wait": _wait,
    "retry_on": _exceptions,
    "timeout": _timeout,
    "cleanup_timeout": _cleanup_timeout,
    "cleanup_when": _when,
    "pause": _pause,
    "inputs": _inputs,
    "autouse": _flag,
    "eager": _flag,
    "skip": _reason,
}


class RunOptions(NamedTuple):
    """How a plan is run.

    Attributes:
        limit: seconds for the whole run without cleanup; None means no limit.
        continue_on_error: whether a failure stops only what needs the step.
        cleanup_limit: seconds for the whole cleanup.
        jobs: how many steps may run at the same time.
        parameters: what hooks may take beside `ctx`, `state` and the values of steps.
        skip_on: exceptions by which a step asks to be skipped.
        stop_on: exceptions that end the plan and are raised as they are.
        program_variables: returns the environment variables for the programs of a step, given
            its name; called on the step's thread.
    """

    limit: float | None
    continue_on_error: bool
    cleanup_limit: float
    jobs: int
    parameters: Mapping[str, Any]
    skip_on: tuple[type[BaseException], ...] = ()
    stop_on: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit)
    program_variables: Callable[[str], Mapping[str, str]] | None = None
