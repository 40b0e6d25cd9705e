"""The options of a step and of a run, and the checks of the values that users pass."""

# Annotations are not postponed: a NamedTuple would compile each of them.
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pytest_plan.engine.definition.names import suggest
from pytest_plan.engine.model.durations import parse_duration
from pytest_plan.engine.model.errors import PlanDefinitionError

DEFAULT_CLEANUP_TIMEOUT = 60.0
DEFAULT_HOST = "127.0.0.1"
UNHURRIED = 86400.0  # seconds for a cleanup without limit: a day


class Parameter(NamedTuple):
    """A parameter of a step.

    Attributes:
        given: the parameter as it was passed, such as a `pytest.param`.
        value: the value that the step gets as `ctx.param`.
        id: the id in names.
    """

    given: Any
    value: Any
    id: str


class StepOptions(NamedTuple):
    """The checked options of a step.

    Attributes:
        needs: names of the steps that must succeed first; None means that the step lists no needs,
            so it keeps its place in the list unless a hook takes another step as a parameter.
        retries: the maximum number of retries after a failed attempt.
        retry_wait: the seconds to wait between attempts, or a tenacity wait; None means
            exponential backoff with jitter, from 0.5 to 30 seconds.
        retry_on: the exception classes that trigger a retry.
        timeout: the maximum duration of one attempt, in seconds; None means no limit.
        cleanup_timeout: the maximum duration of the step's whole cleanup, in seconds.
        cleanup_when: when the `cleanup` hook runs: `succeeded` means only if the step succeeded;
            `attempted` means even if the step failed or was interrupted.
        pause: the seconds to wait after the step.
        inputs: what the step depends on: files, as globs relative to the declaring file or as
            absolute paths, and functions without parameters, whose results count; if one changes,
            a kept step is rebuilt.
        autouse: whether every test in the declaring folder or below needs the step (plugin).
        eager: whether the step is provisioned before collection (plugin).
        after_tests: whether the step begins only after every test that does not need it (plugin).
        alive_every: the seconds between two calls of the `alive` hook while tests run; None means
            that it is not called then (plugin).
        skip: the reason for skipping the step; None means that the step is not skipped.
        per: how often the step is provisioned: once per `run`, or once for each `worker`.
        params: the parameters of the step, which has an instance for each; None if it has none.
        ids: the ids of the parameters, or a function that returns the id of a value, as for
            `pytest.fixture`; None means ids that follow from the values.
    """

    needs: tuple[str, ...] | None = None
    retries: int = 0
    retry_wait: float | Callable[..., float] | None = None
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    timeout: float | None = None
    cleanup_timeout: float = DEFAULT_CLEANUP_TIMEOUT
    cleanup_when: str = "succeeded"
    pause: float = 0.0
    inputs: tuple[str | Callable[[], Any], ...] = ()
    autouse: bool = False
    eager: bool = False
    after_tests: bool = False
    alive_every: float | None = None
    skip: str | None = None
    per: str = "run"
    params: tuple[Parameter, ...] | None = None
    ids: tuple[Any, ...] | Callable[[Any], Any] | None = None


OPTION_NAMES = StepOptions._fields


def check_options(values: Mapping[str, Any], name: str, origin: str) -> StepOptions:
    """Return the checked options of a step.

    Args:
        values: the options by name, as the user passed them; missing options get their defaults.
        name: the name of the step, for the error message.
        origin: `file:line` of the declaration, for the error message.

    Raises:
        PlanDefinitionError: an option is unknown, has an invalid value or contradicts another one.
    """
    for option in values:
        if option not in OPTION_NAMES:
            raise PlanDefinitionError(
                f"step {name!r} ({origin}): unknown option {option!r}"
                f"{suggest(option, OPTION_NAMES)} (known options: {', '.join(OPTION_NAMES)})",
                step=name,
            )
    checked = {
        option: _CHECKS[option](value, f"{option} of step {name!r} ({origin})")
        for option, value in values.items()
    }
    options = StepOptions(**checked)
    if options.after_tests:
        _refuse_contradiction(options, name, origin)
    if options.ids is not None and options.params is None:
        raise PlanDefinitionError(
            f"step {name!r} ({origin}) has ids, but no params that they could name; add params, or "
            "remove ids",
            step=name,
        )
    return options


def _refuse_contradiction(options: StepOptions, name: str, origin: str) -> None:
    contradictions = {
        "eager": (options.eager, "it cannot begin both before collection and after tests"),
        "autouse": (options.autouse, "no test would be left that does not need it"),
    }
    for other, (is_given, reason) in contradictions.items():
        if is_given:
            raise PlanDefinitionError(
                f"step {name!r} ({origin}) has both after_tests and {other}, but {reason}: "
                "remove one of the two",
                step=name,
            )


def check_jobs(value: object, what: str) -> int:
    """Return `value` if it is a valid number of jobs, else raise PlanDefinitionError."""
    return _whole_number(value, what, least=1)


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


def _whole_number(value: object, what: str, *, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _refuse(what, f"a whole number, {least} or more", value)
    return value


def _wait(value: Any, what: str) -> float | Callable[..., float] | None:
    if value is None or (callable(value) and not isinstance(value, type)):
        return value
    return parse_duration(value, what)


def _exceptions(value: Any, what: str) -> tuple[type[BaseException], ...]:
    kinds = value if isinstance(value, (tuple, list)) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise _refuse(what, "an exception class or a tuple of exception classes", value)
    return tuple(kinds)


def _timeout(value: Any, what: str) -> float | None:
    return None if value is None else parse_duration(value, what, zero=False)


def _cleanup_timeout(value: Any, what: str) -> float:
    return DEFAULT_CLEANUP_TIMEOUT if value is None else parse_duration(value, what, zero=False)


def _cleanup_when(value: Any, what: str) -> str:
    if value not in ("succeeded", "attempted"):
        raise _refuse(what, "'succeeded' or 'attempted'", value)
    return str(value)


def _pause(value: Any, what: str) -> float:
    return 0.0 if value is None else parse_duration(value, what)


def _inputs(value: Any, what: str) -> tuple[str | Callable[[], Any], ...]:
    given = value if isinstance(value, (list, tuple)) else [value]
    inputs: list[Any] = [getattr(one, "__file__", one) for one in given]  # a module means its file
    if not all(isinstance(one, (str, os.PathLike)) or callable(one) for one in inputs):
        raise _refuse(what, "a glob, a module, a function or a list of them", value)
    return tuple(one if callable(one) else os.fspath(one) for one in inputs)


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise _refuse(what, "True or False", value)
    return value


def _reason(value: Any, what: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise _refuse(what, "a string that gives the reason", value)


def _per(value: Any, what: str) -> str:
    if value not in ("run", "worker"):
        raise _refuse(what, "'run' or 'worker'", value)
    return str(value)


def _params(value: Any, what: str) -> tuple[Any, ...] | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes)):
        raise _refuse(what, "a list of values", value)
    try:
        params = tuple(value)
    except TypeError:
        raise _refuse(what, "a list of values", value) from None
    if not params:
        raise PlanDefinitionError(
            f"{what} has no values, so the step would have no instance; list at least one value, "
            "or remove the option"
        )
    return params


def _ids(value: Any, what: str) -> tuple[Any, ...] | Callable[[Any], Any] | None:
    function: Callable[[Any], Any] | None = value if callable(value) else None
    if value is None or function is not None:
        return function
    if isinstance(value, (str, bytes)):
        raise _refuse(what, "a list of ids or a function", value)
    try:
        return tuple(value)
    except TypeError:
        raise _refuse(what, "a list of ids or a function", value) from None


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "needs": _names,
    "retries": _whole_number,
    "retry_wait": _wait,
    "retry_on": _exceptions,
    "timeout": _timeout,
    "cleanup_timeout": _cleanup_timeout,
    "cleanup_when": _cleanup_when,
    "pause": _pause,
    "inputs": _inputs,
    "autouse": _flag,
    "eager": _flag,
    "after_tests": _flag,
    "alive_every": _timeout,
    "skip": _reason,
    "per": _per,
    "params": _params,
    "ids": _ids,
}


class RunOptions(NamedTuple):
    """The options of a run.

    Attributes:
        limit: the maximum duration of the run, not counting its cleanup, in seconds; None means
            no limit.
        continue_on_error: if true, a failed step stops only the steps that need it.
        cleanup_limit: the maximum duration of the whole cleanup, in seconds.
        jobs: the maximum number of steps that run at the same time.
        parameters: the values that hooks can take by name, in addition to `ctx`, `state` and
            the values of steps.
        host: the address under which tests reach what steps start.
        skip_on: the exceptions that a step can raise to skip itself.
        stop_on: the exceptions that stop the plan and are re-raised unchanged.
        program_variables: a function that takes the name of a step and returns the environment
            variables for its programs; it is called on the step's thread. None means that
            there are none.
        worker: the worker whose tests this process runs; None if it runs no tests.
        expected: a function that takes the name of a step and returns the number of seconds that
            it is expected to take. If fewer steps may begin than are ready, those begin first after
            which the plan takes longest. None means that the order of declaration counts.
        has_limits: whether the time limits of steps apply.
    """

    limit: float | None
    continue_on_error: bool
    cleanup_limit: float
    jobs: int
    parameters: Mapping[str, Any]
    host: str = DEFAULT_HOST
    skip_on: tuple[type[BaseException], ...] = ()
    stop_on: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit)
    program_variables: Callable[[str], Mapping[str, str]] | None = None
    worker: str | None = "master"
    expected: Callable[[str], float] | None = None
    has_limits: bool = True

    def without_limits(self) -> "RunOptions":
        """Return the options of a run that may take as long as it wants, and so may its steps."""
        return self._replace(limit=None, cleanup_limit=UNHURRIED, has_limits=False)
