"""Requests to stop, and their outcomes and errors."""

from __future__ import annotations

import pytest

from pytest_plan.engine.calls.call import StopFlag
from pytest_plan.engine.model.outcomes import Hook, StepOutcome
from pytest_plan.engine.model.results import PlanCancelledError, PlanTimeoutError, StepTimeoutError
from pytest_plan.engine.model.stop import Stop, StopKind


@pytest.mark.parametrize(
    ("kind", "outcome", "ends"),
    [
        (StopKind.FAILURE, StepOutcome.BLOCKED, False),
        (StopKind.CANCEL, StepOutcome.CANCELLED, True),
        (StopKind.LIMIT, StepOutcome.TIMED_OUT, True),
        (StopKind.TIMEOUT, StepOutcome.TIMED_OUT, True),
    ],
)
def test_each_kind_has_its_outcome(kind: StopKind, outcome: StepOutcome, ends: bool) -> None:
    """Only a failure lets running steps finish."""
    stop = Stop(kind, "reason")
    assert stop.outcome is outcome
    assert stop.ends_running_steps is ends


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (StopKind.CANCEL, PlanCancelledError),
        (StopKind.LIMIT, PlanTimeoutError),
        (StopKind.TIMEOUT, StepTimeoutError),
    ],
)
def test_each_kind_has_its_error(kind: StopKind, error: type[Exception]) -> None:
    """The message has the reason, the step and the hook."""
    raised = Stop(kind, "exceeded its time").error("db", Hook.POST_EXEC, 2)
    assert type(raised) is error
    for word in ("exceeded its time", "'db'", "post_exec"):
        assert word in str(raised)


def test_a_stop_flag_keeps_its_first_reason() -> None:
    """Raising the flag again does not replace the stop it has."""
    flag = StopFlag()
    assert not flag.is_raised()
    first = Stop(StopKind.CANCEL, "first")
    flag.raise_(first)
    flag.raise_(Stop(StopKind.LIMIT, "second"))
    assert flag.is_raised()
    assert flag.stop is first
