"""Many flows at once: the coordinator and those who bring it news."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.events import Event, StepFinished, StepStarted, Waiting
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import PlanCancelledError
from pytest_plan.engine.plan import Plan
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Calls, record_events


@pytest.fixture
def plan(clock: FakeClock) -> Plan:
    """An empty plan that needs no real time."""
    return Plan(clock=clock)


def test_listeners_are_called_on_the_thread_that_executes(plan: Plan) -> None:
    """One at a time, whatever thread brings the news."""
    threads: set[threading.Thread] = set()
    plan.add_listener(lambda _: threads.add(threading.current_thread()))
    for _ in range(4):
        plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(2)), needs=())
    plan.execute()
    assert threads == {threading.current_thread()}


def test_an_error_in_a_listener_ends_nothing(plan: Plan, calls: Calls) -> None:
    """The others hear the event, the step runs, the result names the error."""

    def broken(event: Event) -> None:
        raise RuntimeError("of a listener")

    plan.add_listener(broken)
    events = record_events(plan)
    result = plan.add_step(GenericStep(exec=calls.hook("exec"))).execute()
    assert calls == ["exec"]
    assert any(isinstance(event, StepStarted) for event in events)
    assert "StepStarted: RuntimeError: of a listener" in result.listener_errors


def test_a_heartbeat_says_what_runs(plan: Plan) -> None:
    """About once a second while nothing else happens, with the times."""
    events = record_events(plan)
    plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(3.5)), name="slow")
    plan.execute()
    beats = [event for event in events if isinstance(event, Waiting)]
    seconds = [beat.steps[0][1] for beat in beats if beat.steps]
    assert seconds[:3] == pytest.approx([1, 2, 3], abs=0.05)
    assert {name for beat in beats for name, _ in beat.steps} == {"slow"}
    assert not any(beat.cleaning for beat in beats)


def test_a_heartbeat_says_that_it_is_cleanup(plan: Plan) -> None:
    """So a report can say so, too."""
    events = record_events(plan)
    plan.add_step(GenericStep(cleanup=lambda ctx: ctx.sleep(2.5)), name="slow").execute()
    assert [event.cleaning for event in events if isinstance(event, Waiting)][:2] == [True, True]


def test_steps_that_are_ready_begin_in_the_order_of_declaration(clock: FakeClock) -> None:
    """With fewer jobs than steps."""
    plan = Plan(clock=clock, jobs=1)
    events = record_events(plan)
    names = [f"step_{letter}" for letter in "gaczb"]
    for name in names:
        plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(1)), name=name, needs=())
    plan.execute()
    assert [event.step for event in events if isinstance(event, StepStarted)] == names


def test_an_early_step_begins_before_a_late_one_that_was_ready_first(clock: FakeClock) -> None:
    """The list decides, not the moment."""
    plan = Plan(clock=clock, jobs=1)
    events = record_events(plan)
    plan.add_step(GenericStep(), name="first", needs=())
    plan.add_step(GenericStep(), name="second", needs="first")
    plan.add_step(GenericStep(), name="third", needs=())
    plan.execute()
    started = [event.step for event in events if isinstance(event, StepStarted)]
    assert started == ["first", "second", "third"]


def test_a_long_list_of_short_steps_is_no_recursion(calls: Calls) -> None:
    """Two thousand steps with the machine's clock, in order."""
    plan = Plan()
    for number in range(2000):
        plan.add_step(GenericStep(exec=lambda number=number: calls.note(str(number))))
    result = plan.execute()
    assert calls == [str(number) for number in range(2000)]
    assert result.outcome is StepOutcome.SUCCEEDED


def test_a_chain_of_steps_needs_one_thread(plan: Plan) -> None:
    """The thread that ends a step takes the next one itself."""
    threads: set[int] = set()
    for _ in range(10):
        plan.add_step(GenericStep(exec=lambda: threads.add(threading.get_ident())))
    plan.execute()
    assert len(threads) == 1


def test_cancel_reaches_a_sleeping_step_at_once() -> None:
    """In a fraction of a second of real time."""
    plan = Plan()
    times: list[float] = []

    def exec(ctx: Context) -> None:
        times.append(time.monotonic())
        plan.cancel()
        try:
            ctx.sleep(60)
        finally:
            times.append(time.monotonic())

    with pytest.raises(PlanCancelledError):
        plan.add_step(GenericStep(exec=exec)).execute()
    assert times[1] - times[0] < 1


def test_events_of_a_step_come_in_order(plan: Plan) -> None:
    """Started before finished, each once, at times that never go back."""
    events = record_events(plan)
    for name in ("one", "two"):
        plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(1)), name=name)
    plan.execute()
    told: list[Any] = [
        (type(event).__name__, event.step if isinstance(event, StepStarted) else event.result.name)
        for event in events
        if isinstance(event, (StepStarted, StepFinished))
    ]
    assert told == [
        ("StepStarted", "one"),
        ("StepFinished", "one"),
        ("StepStarted", "two"),
        ("StepFinished", "two"),
    ]
    times = [event.at for event in events]
    assert times == sorted(times)
