"""How a plan is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


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
