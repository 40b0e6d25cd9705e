"""The hooks of pytest-plan.

pytest-plan calls them on the main thread of the process that runs the plan, with two exceptions. It
calls `pytest_plan_configure` in every process, and `pytest_plan_program_variables` on the thread of
a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_plan import PlanHandle
    from pytest_plan.engine.model.results import PlanResult, StepResult
    from pytest_plan.engine.plan import Plan


@pytest.hookspec
def pytest_plan_configure(config: pytest.Config, plan: Plan) -> None:
    """Add steps to `plan`; the plan cannot be run here.

    Called once, after the initial conftests are loaded and before collection. It is an error to
    implement this hook in a conftest.py that is loaded later.

    Args:
        config: the config of this process.
        plan: the plan; use `plan.add_step` and `plan.add_pause`.
    """


@pytest.hookspec
def pytest_plan_step_started(config: pytest.Config, step: str) -> None:
    """Called when a step begins its first attempt."""


@pytest.hookspec
def pytest_plan_step_finished(config: pytest.Config, result: StepResult) -> None:
    """Called when a step has ended or will not run; its cleanup follows later."""


@pytest.hookspec
def pytest_plan_cleanup(config: pytest.Config, plan: PlanHandle, reason: str) -> None:
    """Called before the first cleanup, for example to collect diagnostics after a failure.

    It is not called if there is nothing to clean up. Its time counts toward `cleanup_limit`. If it
    raises an exception, the exception is reported, and cleanup goes on.

    Args:
        config: the config of this process.
        plan: the plan; `plan.results` and `plan.state` can be read, the State no longer changed.
        reason: why cleanup runs: `success`, `failure` (a step or a test has failed), `cancelled` or
            `timeout`.
    """


@pytest.hookspec
def pytest_plan_step_cleaned(config: pytest.Config, result: StepResult) -> None:
    """Called when the cleanup of a step has ended."""


@pytest.hookspec
def pytest_plan_finished(config: pytest.Config, result: PlanResult) -> None:
    """Called when the plan has finished, including its cleanup."""


@pytest.hookspec
def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Any], None] | None:
    """Return a function that the engine calls with every event, or None.

    Called once, before the first step. The events are `StepStarted`, `AttemptFailed`,
    `StepFinished`, `StepLost`, `StopRequested`, `CleanupBegan`, `StepCleaned`,
    `CleanupInterrupted`, `Waiting` and `PlanFinished`.
    """


@pytest.hookspec
def pytest_plan_program_variables(config: pytest.Config, step: str) -> Mapping[str, str] | None:
    """Return environment variables for a program that a hook of the step starts through `ctx`.

    Called on the thread of the step, for each call of `ctx.run` or `ctx.start` without
    `clean_env`. The argument `env` of the call takes precedence. If this hook raises an
    exception, that call fails.
    """


@pytest.hookspec
def pytest_plan_show(config: pytest.Config) -> None:
    """Print the plan instead of running it (`--plan-show`, `--setup-plan`)."""
