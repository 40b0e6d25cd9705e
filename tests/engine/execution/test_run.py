"""A run that provisions in several calls, as the plugin does."""

from __future__ import annotations

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.events import CleanupBegan, PlanFinished
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import CleanupError, StepError
from pytest_plan.engine.model.secret import Secret
from pytest_plan.engine.plan import Plan, begin
from pytest_plan.engine.shared.state import State
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Calls, execute, record_events


@pytest.fixture
def plan(clock: FakeClock) -> Plan:
    """An empty plan that needs no real time."""
    return Plan(clock=clock)


def test_only_what_is_wanted_and_what_it_waits_for_runs(plan: Plan, calls: Calls) -> None:
    """`provision` follows both kinds of edges."""
    plan.add_step(GenericStep(exec=calls.hook("net")), name="net")
    plan.add_step(GenericStep(exec=calls.hook("db")), name="db", needs="net")
    plan.add_step(GenericStep(exec=calls.hook("mail")), name="mail", needs=())
    plan.add_step(GenericStep(exec=calls.hook("web")), name="web", needs="db")
    run = begin(plan)
    run.provision(["db"])
    run.clean_up()
    assert calls == ["net", "db"]
    assert run.result().steps["web"].outcome is StepOutcome.PENDING


def test_a_second_go_runs_only_what_is_missing(plan: Plan, calls: Calls) -> None:
    """Steps that have ended are not repeated; cleanup covers both calls."""
    for name in ("one", "two", "three"):
        plan.add_step(
            GenericStep(exec=calls.hook(name), cleanup=calls.hook(f"clean {name}")), name=name
        )
    run = begin(plan)
    run.provision(["one"])
    calls.note("|")
    run.provision()
    run.clean_up()
    assert calls == ["one", "|", "two", "three", "clean three", "clean two", "clean one"]


def test_a_failure_of_the_first_go_stops_the_second(plan: Plan, calls: Calls) -> None:
    """After a failure no further step begins."""
    plan.add_step(GenericStep(exec=calls.hook("one", failures=1)), name="one")
    plan.add_step(GenericStep(exec=calls.hook("two")), name="two")
    run = begin(plan)
    run.provision(["one"])
    run.provision()
    run.clean_up()
    assert calls == ["one"]
    assert run.result().steps["two"].outcome is StepOutcome.BLOCKED
    assert isinstance(run.error(), StepError)


def test_cleaning_up_twice_cleans_up_once(plan: Plan, calls: Calls) -> None:
    """The second call does nothing."""
    plan.add_step(GenericStep(cleanup=calls.hook("cleanup")))
    run = begin(plan)
    run.provision()
    run.clean_up()
    run.clean_up()
    assert calls == ["cleanup"]


def test_cleaning_up_without_provisioning_is_no_error(plan: Plan) -> None:
    """No step has begun, and listeners get only PlanFinished."""
    events = record_events(plan)
    plan.add_step(GenericStep(), name="one")
    run = begin(plan)
    run.clean_up()
    assert run.error() is None
    assert not any(isinstance(event, CleanupBegan) for event in events)
    assert isinstance(events[-1], PlanFinished)


def test_every_run_has_a_name_of_its_own() -> None:
    """The id of a run is random."""
    names = {begin(Plan()).run_id for _ in range(20)}
    assert len(names) == 20


def test_exceptions_that_end_the_plan_can_be_named(plan: Plan, calls: Calls) -> None:
    """Exceptions such as pytest.exit's are raised unchanged after cleanup."""

    class Exit(Exception):  # noqa: N818 - a stand-in for pytest's
        pass

    plan.add_step(GenericStep(cleanup=calls.hook("cleanup")))
    plan.add_step(GenericStep(exec=calls.hook("exec", failures=1, error=Exit)), retries=3)
    run = begin(plan, stop_on=(Exit,))
    run.provision()
    run.clean_up()
    assert isinstance(run.error(), Exit)
    assert run.fatal is run.error()
    assert calls == ["exec", "cleanup"]


def test_remaining_counts_down_to_the_limit(clock: FakeClock) -> None:
    """It is never negative, and None without a limit."""
    run = begin(Plan(limit=10, clock=clock))
    clock.advance(4)
    assert run.remaining() == pytest.approx(6)
    clock.advance(60)
    assert run.remaining() == 0
    assert begin(Plan(clock=clock)).remaining() is None


def test_the_result_has_what_every_step_came_to(plan: Plan, calls: Calls) -> None:
    """Its times are seconds since the run began."""
    plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(2)), name="one")
    plan.add_step(
        GenericStep(exec=lambda ctx: ctx.sleep(3), cleanup=lambda ctx: ctx.sleep(4)), name="two"
    )
    result = plan.execute()
    two = result.steps["two"]
    assert two.started == pytest.approx(2, abs=0.01)
    assert two.seconds == pytest.approx(3, abs=0.01)
    assert two.after == ("one",)
    assert two.cleanup.started == pytest.approx(5, abs=0.01)
    assert two.cleanup.seconds == pytest.approx(4, abs=0.01)
    assert result.seconds == pytest.approx(9, abs=0.02)


def test_a_cleanup_error_knows_the_result(plan: Plan, calls: Calls) -> None:
    """Every error that `execute` raises has the result."""
    plan.add_step(GenericStep(cleanup=calls.hook("cleanup", failures=1)), name="one")
    with pytest.raises(CleanupError) as caught:
        plan.execute()
    assert caught.value.result is not None
    assert list(caught.value.result.steps) == ["one"]


def test_a_secret_that_was_in_the_state_before_the_run_is_masked(plan: Plan) -> None:
    """It is masked in the log of a step."""
    plan.state["token"] = Secret("hunter2-very-secret")

    def exec(ctx: Context, state: State) -> None:
        ctx.log(f"password is {state['token'].reveal()}")
        raise ValueError

    plan.add_step(GenericStep(exec=exec), name="login")
    execute(plan)
    assert plan.results["login"].log_tail == "password is ***"
