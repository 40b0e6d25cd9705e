"""Steps, the units of a plan (gsd: Step, GenericStep, AddPause)."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, Self

from pytest_plan.engine.model.errors import PlanDefinitionError


class Step:
    """One unit of provisioning. Override the hooks you need.

    An attempt runs `pre_exec`, then `exec` if `pre_exec` returned, then `post_exec` if `exec`
    returned. After a failure all three run again, at most `retries` times. `cleanup` runs
    once, during cleanup of the plan, if all three succeeded.

    A hook can take these parameters by name: `ctx` (`Context`), `state` (`State`), the plan's
    parameters, the names of other steps (their values), and, in `post_exec`, `cleanup` and
    `alive`, `value` (the step's own value). Every hook may be `async def`. `exec` may be a
    generator with one `yield`; the code after it, the tail, undoes the step. The value of the
    step is what `exec` returns or yields.

    The options of `Plan.add_step` can also be set as class attributes; keyword arguments of
    `add_step` take precedence.

    Attributes:
        retries: the maximum number of retries after a failed attempt; 0 means no retry.
    """

    __module__ = "pytest_plan"

    retries: int = 0
    repeats_succeeded_hooks = True

    # The signatures are this wide so that type checkers let a step choose its own parameters.
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

        Returning False or raising an exception means that it does not.
        """


class GenericStep(Step):
    """A step made of functions, all of which are optional.

    Unlike other steps, it does not repeat a hook that succeeded in an earlier attempt. (gsd
    intends the same, but never sets the flags for it.)

    Args:
        pre_exec: the hook `pre_exec` of `Step`; None means no such hook.
        exec: the hook `exec` of `Step`; None means no such hook.
        post_exec: the hook `post_exec` of `Step`; None means no such hook.
        cleanup: the hook `cleanup` of `Step`; None means no such hook.
        alive: the hook `alive` of `Step`; None means no such hook.

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
        """Return a copy of the step with this number of retries (gsd: WithRetries)."""
        twin = copy.copy(self)
        twin.retries = retries
        return twin


class FunctionStep(GenericStep):
    """A step made of one or more functions. Unlike `GenericStep`, it repeats all hooks."""

    repeats_succeeded_hooks = True


class Pause(Step):
    """A step that only waits. Cancelling the plan ends it at once, and cleanup ignores it.

    Attributes:
        seconds: duration of the wait.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


def snake_case(name: str) -> str:
    """Convert the name of a class to a step name, as in `HTTPServer` to `http_server`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
