"""The typed form of `@pytest.mark.plan_step`, which editors complete and type checkers check."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, overload

import pytest

from pytest_plan.engine.model.durations import Duration
from pytest_plan.plugin.declaring.marks import STEP

F = TypeVar("F", bound=Callable[..., Any])
Hook: TypeAlias = Callable[..., Any]
Input: TypeAlias = "str | os.PathLike[str] | types.ModuleType | Callable[[], Any]"


@overload
def plan_step(step: F, /) -> F: ...


@overload
def plan_step(
    *,
    name: str | None = None,
    needs: str | Iterable[str] | None = None,
    retries: int = 0,
    retry_wait: Duration | Callable[..., float] | None = None,
    retry_on: type[BaseException] | Sequence[type[BaseException]] = Exception,
    timeout: Duration | None = None,
    cleanup_timeout: Duration | None = 60.0,
    cleanup_when: Literal["succeeded", "attempted"] = "succeeded",
    pause: Duration | None = 0.0,
    pre_exec: Hook | None = None,
    post_exec: Hook | None = None,
    cleanup: Hook | None = None,
    alive: Hook | None = None,
    alive_every: Duration | None = None,
    inputs: Input | Sequence[Input] = (),
    autouse: bool = False,
    eager: bool = False,
    after_tests: bool = False,
    per: Literal["run", "worker"] = "run",
    params: Iterable[Any] | None = None,
    ids: Iterable[object] | Callable[[Any], object] | None = None,
) -> Callable[[F], F]: ...


def plan_step(step: Any = None, /, **options: Any) -> Any:  # noqa: D417 - each option is listed
    """Declare a function or a `Step` class as a step, like `@pytest.mark.plan_step`.

    The decorator applies that mark, and so takes the same options. It keeps the type of what it
    decorates, and can be used with and without parentheses.

    Args:
        step: the function or class; None means that the call returns the decorator.
        name: the name of the step; None means that of the function or, in snake_case, of the class.
        needs: names of the steps that must succeed first; None means the steps that it takes as
            parameters or, if there are none, that it waits for all steps declared above it.
        retries: the maximum number of retries after a failed attempt.
        retry_wait: the wait between attempts, or a tenacity wait; None means exponential backoff
            with jitter, from 0.5 to 30 seconds.
        retry_on: the exception classes that trigger a retry.
        timeout: the maximum duration of one attempt; None means no limit.
        cleanup_timeout: the maximum duration of the step's whole cleanup; None means 60 seconds.
        cleanup_when: when the `cleanup` hook runs: `succeeded` means only if the step succeeded;
            `attempted` means even if the step failed or was interrupted.
        pause: the wait after the step; None means none.
        pre_exec: a function to call before the step; None means none.
        post_exec: a function to call after the step; None means none.
        cleanup: a function that undoes the step; None means none.
        alive: a function that returns whether a kept or running step still works; None means none.
        alive_every: how often to call `alive` while tests run; None means never.
        inputs: files (as globs), modules and functions without parameters; if one changes, a kept
            step is rebuilt.
        autouse: whether every test in the declaring folder or below needs the step.
        eager: whether the step is provisioned before collection.
        after_tests: whether the step begins only after every test that does not need it.
        per: whether the step is provisioned once per `run`, or once for each `worker`.
        params: the parameters of the step, which has an instance for each; None means none.
        ids: the ids of the parameters, or a function that returns the id of a value; None means ids
            that follow from the values.

    Returns:
        The function or class itself, or the decorator.

    Raises:
        TypeError: both a step and options were given.
    """
    mark = getattr(pytest.mark, STEP)
    if step is None:
        return mark(**options)
    if options:
        first = next(iter(options))
        raise TypeError(
            "plan_step was called with a step and options; write "
            f"@plan_step({first}=...) above the step"
        )
    return mark(step)


plan_step.__module__ = "pytest_plan"
