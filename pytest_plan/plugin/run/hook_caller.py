"""Calls the hooks of `hookspecs.py` for the engine's events."""

from __future__ import annotations

import pytest

from pytest_plan.engine.model.events import (
    Event,
    Listener,
    PlanFinished,
    StepCleaned,
    StepFinished,
    StepStarted,
)


def hook_caller(config: pytest.Config) -> Listener:
    """Return a listener that calls the hook that belongs to each event, if there is one."""
    hook = config.hook

    def call_hook(event: Event) -> None:
        match event:
            case StepStarted(step=step):
                hook.pytest_plan_step_started(config=config, step=step)
            case StepFinished(result=result):
                hook.pytest_plan_step_finished(config=config, result=result)
            case StepCleaned(result=result):
                hook.pytest_plan_step_cleaned(config=config, result=result)
            case PlanFinished(result=result):
                hook.pytest_plan_finished(config=config, result=result)
            case _:
                pass

    return call_hook
