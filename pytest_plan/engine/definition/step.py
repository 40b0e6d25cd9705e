"""Steps: what a plan is made of (gsd: Step, GenericStep, AddPause)."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, Self

from pytest_plan.engine.model.errors import PlanDefinitionError


class Step:
    """One unit of provisioning; override the hooks you need.

    An attempt runs `pre_exec`, then `exec` if that returned, then `post_exec` if that
    returned. After a failure all three run again, at most `retries` times. `cleanup` runs
    once, in the reverse phase, if all three succeeded.

    A hook takes any of these by name: `ctx` (`Context`), `state` (`State`), the plan's
    parameters, the names of other steps (their values), and, in `post_exec`, `cleanup` and
    `alive`, `value` (the step's own). Each may be `async def`; `exec` may be a generator whose
    tail, after the one `yield`, is its undo. What `exec` returns or yields is the step's value.

    The options of `Plan.add_step` may also be class attributes; a keyword there wins.

    Attributes:
        retries: how often a failed attempt is repeated; 0 means never.
    """

    __module__ = "pytest_plan"

    retries: int = 0
    repeats_succeeded_hooks = True

    # The parameters here only say that each step chooses its own, by name.
    def pre_exec(self, *args: Any, **kwargs: Any) -> Any:
        """Prepare; nothing by default."""

    def exec(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work; what it returns is the step's value."""

    def post_exec(self, *args: Any, **kwargs: Any) -> Any:
        """Check the work; nothing by default."""

    def cleanup(self, *args: Any, **kwargs: Any) -> Any:
        """Undo the work; nothing by default."""

    def alive(self, *args: Any, **kwargs: Any) -> Any:
        """Say whether what an earlier run kept still works: False or an error means no."""


class GenericStep(Step):
    """A step made of functions, each of which may be missing.

    Unlike any other step it does not repeat a hook that succeeded in an earlier attempt
    (gsd meant this, its flags are never set).

    Args:
        pre_exec: see `Step`; None means nothing.
        exec: see `Step`; None means nothing.
        post_exec: see `Step`; None means nothing.
        cleanup: see `Step`; None means nothing.
        alive: see `Step`; None means nothing.
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
                raise PlanDefinitionError(f"{name} of a GenericStep is no function: {function!r}")
            setattr(self, name, function)

    def with_retries(self, retries: int) -> Self:
        """Return the same step with another number of retries (gsd: WithRetries)."""
        twin = copy.copy(self)
        twin.retries = retries
        return twin


class FunctionStep(GenericStep):
    """A step made of one function, and perhaps of more; every attempt repeats all hooks."""

    repeats_succeeded_hooks = True


class Pause(Step):
    """A step that only waits; cancelling the plan ends it, and cleanup ignores it.

    Attributes:
        seconds: how long it waits.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


def snake_case(name: str) -> str:
    """Return the name of a class as a step's name: `HTTPServer` becomes `http_server`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
