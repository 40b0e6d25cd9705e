"""Steps, the units of which a plan consists (gsd: Step, GenericStep, AddPause)."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, Self

from pytest_plan.engine.model.errors import PlanDefinitionError


class Step:
    """One unit of provisioning. Override the hooks you need.

    An attempt runs `pre_exec`, `exec` and `post_exec`, and ends at the first hook that raises.
    After a failed attempt, all three hooks run again, at most `retries` times. `cleanup` runs
    once, when the plan is cleaned up, if all three succeeded.

    A hook can take these parameters by name: `ctx` (`Context`), `state` (`State`), the plan's
    parameters, the names of other steps (their values), and, in `post_exec`, `cleanup` and
    `alive`, `value` (the step's own value). A parameter with a default keeps its default.

    Every hook may be `async def`. `exec` may be a generator with one `yield`; the code after the
    `yield` (the tail) undoes the step. The value of the step is what `exec` returns or yields; if
    that is None, it is what a hook has stored in the State under the step's name.

    Every option of `Plan.add_step` can also be set as a class attribute. The keyword arguments of
    `add_step` take precedence.

    Attributes:
        retries: the maximum number of retries after a failed attempt; 0 means no retries.
    """

    __module__ = "pytest_plan"

    retries: int = 0
    repeats_succeeded_hooks = True

    # The signatures accept anything so that type checkers allow overrides with any parameters.
    def pre_exec(self, *args: Any, **kwargs: Any) -> Any:
        """Prepare the work. Does nothing by default."""

    def exec(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work and return the step's value."""

    def post_exec(self, *args: Any, **kwargs: Any) -> Any:
        """Check the work. Does nothing by default."""

    def cleanup(self, *args: Any, **kwargs: Any) -> Any:
        """Undo the work. Does nothing by default."""

    def alive(self, *args: Any, **kwargs: Any) -> Any:
        """Check whether a step kept by an earlier run still works.

        The hook reports a broken step by returning False or raising an exception.
        """


class GenericStep(Step):
    """A step whose hooks are given as functions, all of which are optional.

    Unlike other steps, it does not repeat a hook that succeeded in an earlier attempt. (gsd
    intends this too, but never sets the flags for it.)

    Args:
        pre_exec: the function for the hook `pre_exec`; None means that the step lacks this hook.
        exec: the function for the hook `exec`; None means that the step lacks this hook.
        post_exec: the function for the hook `post_exec`; None means that the step lacks this hook.
        cleanup: the function for the hook `cleanup`; None means that the step lacks this hook.
        alive: the function for the hook `alive`; None means that the step lacks this hook.

    Raises:
        PlanDefinitionError: a hook is not callable.
    """

    __module__ = "pytest_plan"

    repeats_succeeded_hooks = False

    def __init__(
        self,
        *,
        pre_exec: Callable[..., Any] | None = None,
        exec: Callable[..., Any] | None = None,
        post_exec: Callable[..., Any] | None = None,
        cleanup: Callable[..., Any] | None = None,
        alive: Callable[..., Any] | None = None,
    ) -> None:
        for name, function in (
            ("pre_exec", pre_exec),
            ("exec", exec),
            ("post_exec", post_exec),
            ("cleanup", cleanup),
            ("alive", alive),
        ):
            if function is None:
                continue
            if not callable(function):
                raise PlanDefinitionError(
                    f"{name} of a GenericStep must be callable, not {function!r}"
                )
            setattr(self, name, function)

    def with_retries(self, retries: int) -> Self:
        """Return a copy of the step with another number of retries (gsd: WithRetries)."""
        twin = copy.copy(self)
        twin.retries = retries
        return twin


class FunctionStep(GenericStep):
    """A step whose hooks are given as functions. Unlike `GenericStep`, it repeats all hooks."""

    repeats_succeeded_hooks = True


class Pause(Step):
    """A step that only waits. Cancelling the plan ends the wait at once. Cleanup ignores the step.

    Attributes:
        seconds: duration of the wait.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


def snake_case(name: str) -> str:
    """Convert a class name to a step name: `HTTPServer` becomes `http_server`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
