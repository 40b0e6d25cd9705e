"""The events of a run, as listeners receive them."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.model.events import Event, PlanFinished, StepFinished, StopRequested
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.plan import Plan, listen
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Calls, execute, record_events


@pytest.fixture
def plan(clock: FakeClock) -> Plan:
    """An empty plan with a fake clock."""
    return Plan(clock=clock)


def test_events_cover_a_run_from_its_first_step_to_its_end(plan: Plan, calls: Calls) -> None:
    """The events of a run arrive in the order in which things happen."""
    events = record_events(plan)
    plan.add_step(GenericStep(cleanup=calls.hook("cleanup")), name="one")
    plan.add_step(GenericStep(exec=calls.hook("two", failures=2)), name="two", retries=1,
                  retry_wait=0)  # fmt: skip
    plan.add_step(GenericStep(), name="three")
    execute(plan)
    assert [type(event).__name__ for event in events] == [
        "StepStarted",
        "StepFinished",
        "StepStarted",
        "AttemptFailed",
        "StepFinished",
        "StepFinished",
        "CleanupBegan",
        "StepCleaned",
        "PlanFinished",
    ]


def test_a_step_that_does_not_run_is_reported_as_finished(plan: Plan, calls: Calls) -> None:
    """The event has its outcome and reason, and its cleanup has not been decided yet."""
    events = record_events(plan)
    plan.add_step(GenericStep(exec=calls.hook("one", failures=1)), name="one")
    plan.add_step(GenericStep(), name="two")
    execute(plan)
    one, two = [event.result for event in events if isinstance(event, StepFinished)]
    assert (one.outcome, two.outcome) == (StepOutcome.FAILED, StepOutcome.BLOCKED)
    assert one.error is not None
    assert one.cleanup.outcome is CleanupOutcome.NONE
    assert two.reason


@pytest.mark.parametrize("ending", ["cancel", "limit"])
def test_a_request_to_stop_is_reported_with_its_reason(clock: FakeClock, ending: str) -> None:
    """Two requests to cancel lead to one event, which has the first reason."""
    plan = Plan(clock=clock, limit=5)
    events = record_events(plan)

    def exec(ctx: Context) -> None:
        if ending == "cancel":
            plan.cancel("enough")
            plan.cancel("really")
        ctx.sleep(60)

    plan.add_step(GenericStep(exec=exec))
    execute(plan)
    (stop,) = [event for event in events if isinstance(event, StopRequested)]
    assert {"cancel": "enough", "limit": "limit of 5.00s"}[ending] in stop.reason


def test_the_last_event_has_the_result_of_the_run(plan: Plan) -> None:
    """It equals the returned result, except that errors of listeners may be missing."""
    events = record_events(plan)
    result = plan.add_step(GenericStep(), name="one").execute()
    last = events[-1]
    assert isinstance(last, PlanFinished)
    assert last.result.steps == result.steps
    assert last.result.outcome is result.outcome


@pytest.mark.parametrize("kind", get_args(Event))
def test_an_event_is_frozen_and_has_a_time(kind: Any) -> None:
    """Its last field, `at`, is the time in seconds since the run began."""
    *others, last = kind._fields
    assert last == "at"
    event = kind(*others, at=1.0)
    with pytest.raises(AttributeError):
        event.at = 2.0


def test_a_listener_added_later_receives_the_rest(plan: Plan) -> None:
    """A listener that a step adds receives the events that follow."""
    heard: list[Event] = []
    plan.add_step(GenericStep(exec=lambda: listen(plan, heard.append)))
    plan.execute()
    assert isinstance(heard[-1], PlanFinished)


def test_errors_of_a_run_are_plan_errors(plan: Plan, calls: Calls) -> None:
    """`except PlanError` catches the error of a failed run."""
    plan.add_step(GenericStep(exec=calls.hook("exec", failures=1)))
    with pytest.raises(PlanError):
        plan.execute()
