"""Many flows at once: the coordinator, and the threads that perform calls."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.journal.null import NullJournal
from pytest_plan.engine.model.events import Event, StepFinished, StepStarted, Waiting
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import CleanupError, PlanCancelledError, StepTimeoutError
from pytest_plan.engine.plan import Plan, begin, listen
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.neighbour import Neighbour
from tests.engine.support.steps import Calls, record_events


@pytest.fixture
def plan(clock: FakeClock) -> Plan:
    """An empty plan that needs no real time."""
    return Plan(clock=clock)


def test_listeners_are_called_on_the_thread_that_executes(plan: Plan) -> None:
    """They are called one at a time, whichever thread sent the event."""
    threads: set[threading.Thread] = set()
    listen(plan, lambda _: threads.add(threading.current_thread()))
    for _ in range(4):
        plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(2)), needs=())
    plan.execute()
    assert threads == {threading.current_thread()}


def test_an_error_in_a_listener_ends_nothing(plan: Plan, calls: Calls) -> None:
    """Other listeners get the event, the step runs, and the result has the error."""

    def broken(event: Event) -> None:
        raise RuntimeError("of a listener")

    listen(plan, broken)
    events = record_events(plan)
    result = plan.add_step(GenericStep(exec=calls.hook("exec"))).execute()
    assert calls == ["exec"]
    assert any(isinstance(event, StepStarted) for event in events)
    assert "StepStarted: RuntimeError: of a listener" in result.listener_errors


def test_a_heartbeat_says_what_runs(plan: Plan) -> None:
    """It comes about once a second while nothing else happens, with the elapsed times."""
    events = record_events(plan)
    plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(3.5)), name="slow")
    plan.execute()
    beats = [event for event in events if isinstance(event, Waiting)]
    seconds = [beat.steps[0][1] for beat in beats if beat.steps]
    assert seconds[:3] == pytest.approx([1, 2, 3], abs=0.05)
    assert {name for beat in beats for name, _ in beat.steps} == {"slow"}
    assert not any(beat.cleaning for beat in beats)


def test_a_heartbeat_says_that_it_is_cleanup(plan: Plan) -> None:
    """A report can tell the phases apart."""
    events = record_events(plan)
    plan.add_step(GenericStep(cleanup=lambda ctx: ctx.sleep(2.5)), name="slow").execute()
    assert [event.cleaning for event in events if isinstance(event, Waiting)][:2] == [True, True]


def test_steps_that_are_ready_begin_in_the_order_of_declaration(clock: FakeClock) -> None:
    """This holds with fewer jobs than steps."""
    plan = Plan(clock=clock, jobs=1)
    events = record_events(plan)
    names = [f"step_{letter}" for letter in "gaczb"]
    for name in names:
        plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(1)), name=name, needs=())
    plan.execute()
    assert [event.step for event in events if isinstance(event, StepStarted)] == names


def test_an_early_step_begins_before_a_late_one_that_was_ready_first(clock: FakeClock) -> None:
    """The order of declaration decides, not the time when a step is ready."""
    plan = Plan(clock=clock, jobs=1)
    events = record_events(plan)
    plan.add_step(GenericStep(), name="first", needs=())
    plan.add_step(GenericStep(), name="second", needs="first")
    plan.add_step(GenericStep(), name="third", needs=())
    plan.execute()
    started = [event.step for event in events if isinstance(event, StepStarted)]
    assert started == ["first", "second", "third"]


def test_a_long_list_of_short_steps_is_no_recursion(calls: Calls) -> None:
    """Two thousand steps run in order with the real clock."""
    plan = Plan()
    for number in range(2000):
        plan.add_step(GenericStep(exec=lambda number=number: calls.note(str(number))))
    result = plan.execute()
    assert calls == [str(number) for number in range(2000)]
    assert result.outcome is StepOutcome.SUCCEEDED


def test_a_chain_of_steps_needs_one_thread(plan: Plan) -> None:
    """The thread that ends a step runs the next one."""
    threads: set[int] = set()
    for _ in range(10):
        plan.add_step(GenericStep(exec=lambda: threads.add(threading.get_ident())))
    plan.execute()
    assert len(threads) == 1


def test_cancel_reaches_a_sleeping_step_at_once() -> None:
    """It takes a fraction of a second of real time."""
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
    """StepStarted precedes StepFinished, each comes once, and times never decrease."""
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


class SlowError(Exception):
    """An exception whose `__str__` blocks until the neighbour has timed out."""

    def __init__(self, neighbour: Neighbour) -> None:
        super().__init__()
        self._neighbour = neighbour

    def __str__(self) -> str:
        if not self._neighbour.was_kept:
            self._neighbour.wait_for_its_timeout()
        return "slow"


class SlowJournal(NullJournal):
    """A journal that blocks at the end of the step `slow` until the neighbour has timed out."""

    def __init__(self, neighbour: Neighbour) -> None:
        self._neighbour = neighbour

    def ends_durably(self, step: PlannedStep) -> bool:
        """Return whether it is the step `slow`."""
        return step.name == "slow"

    def step_ended(
        self,
        step: PlannedStep,
        outcome: StepOutcome,
        completed: int,
        log_tail: str,
        *,
        has_begun: bool,
    ) -> None:
        """Block until the neighbour has timed out."""
        if step.name == "slow":
            self._neighbour.wait_for_its_timeout()


class TestTimesAreKeptBesideSlowSteps:
    """User code and disk writes of one step do not delay another step's timeout."""

    def test_beside_an_exception_whose_text_takes_long(self) -> None:
        """Its `__str__` blocks until the neighbour has timed out."""
        neighbour = Neighbour()

        def exec() -> None:
            raise SlowError(neighbour)

        plan = Plan(continue_on_error=True)
        plan.add_step(GenericStep(exec=exec), name="slow", needs=())
        neighbour.join(plan)
        result = plan.execute()
        neighbour.assert_kept(result)
        assert result.steps["slow"].reason == "SlowError: slow"

    def test_beside_a_cleanup_error_whose_text_takes_long(self) -> None:
        """Meanwhile the other cleanup is stopped at its `cleanup_timeout`."""
        neighbour = Neighbour()

        def fail() -> None:
            raise SlowError(neighbour)

        def hang(ctx: Context) -> None:
            try:
                ctx.sleep("1h")
            except StepTimeoutError:
                neighbour.has_timed_out.set()
                raise

        plan = Plan()
        plan.add_step(GenericStep(cleanup=fail), name="slow", needs=())
        hangs = GenericStep(cleanup=hang)
        plan.add_step(hangs, name="hangs", needs=(), cleanup_timeout="50ms")
        with pytest.raises(CleanupError):
            plan.execute()
        assert neighbour.was_kept == [True]
        assert plan.results["hangs"].cleanup.outcome is CleanupOutcome.TIMED_OUT

    def test_beside_a_durable_write_that_takes_long(self) -> None:
        """The journal blocks until the neighbour has timed out."""
        neighbour = Neighbour()
        plan = Plan(continue_on_error=True)
        plan.add_step(GenericStep(exec=lambda: "value"), name="slow", needs=())
        neighbour.join(plan)
        run = begin(plan, journal=SlowJournal(neighbour))
        run.provision()
        run.clean_up()
        neighbour.assert_kept(run.result())
        assert run.result().steps["slow"].outcome is StepOutcome.SUCCEEDED

    def test_what_needs_a_step_begins_after_its_durable_write(self) -> None:
        """No step relies on a step that the journal does not have yet."""
        neighbour = Neighbour()
        written: list[bool] = []
        plan = Plan(continue_on_error=True)
        plan.add_step(GenericStep(exec=lambda: "value"), name="slow", needs=())
        follows = GenericStep(exec=lambda: written.extend(neighbour.was_kept))
        plan.add_step(follows, name="follows", needs=["slow"])
        neighbour.join(plan)
        run = begin(plan, journal=SlowJournal(neighbour))
        run.provision()
        run.clean_up()
        assert written == [True]
