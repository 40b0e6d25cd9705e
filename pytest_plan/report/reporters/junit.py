"""Adds a property for each step to the `--junitxml` file.

Failed steps and failed cleanups are test cases of that file already, because pytest gets a report
of each. Steps that succeeded are properties, so that they do not count as tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_plan.engine.model.events import Event, PlanFinished
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import PlanResult, StepResult
from pytest_plan.plugin.compat.report_internals import add_suite_properties
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession
from pytest_plan.report import verdict


def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Any], None]:
    """Return a listener that adds the properties when the plan has finished."""

    def on_event(event: Event) -> None:
        """Add the properties; pytest writes the file later."""
        if isinstance(event, PlanFinished):
            add_suite_properties(config, _properties(lookup.of(config), event.result))

    return on_event


def _properties(plan: PlanSession, result: PlanResult) -> Iterator[tuple[str, str]]:
    whole = verdict.of_run(plan, result, {})  # the file counts its test cases itself
    yield "plan.environment", plan.handle.environment
    yield "plan.outcome", whole.plan_outcome
    yield "plan.verdict", whole.outcome
    for step in result.steps.values():
        if step.outcome is not StepOutcome.PENDING:
            yield f"plan.step.{plan.host.foreground.shown(step.name)}", _summary(step)


def _summary(step: StepResult) -> str:
    cleanup, lost = step.cleanup, step.lost
    parts = [step.outcome if step.started is None else f"{step.outcome} {step.seconds:.3f}s"]
    if lost is not None:
        parts.append(f"lost at {lost.at:.3f}s ({lost.detail})")
    if cleanup.outcome is not CleanupOutcome.NONE:
        parts.append(f"cleanup {cleanup.outcome} {cleanup.seconds:.3f}s")
    return ", ".join(parts)
