"""A run that provisions in several calls, as the plugin does."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.events import CleanupBegan, Event, PlanFinished, StepStarted
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import CleanupError, PlanTimeoutError, StepError
from pytest_plan.engine.model.secret import Secret
from pytest_plan.engine.plan import Plan, begin, listen
from pytest_plan.engine.shared.state import State
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import LONGEST_WAIT, Calls, execute, record_events


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


def test_no_step_begins_after_the_limit_in_a_later_call(clock: FakeClock, calls: Calls) -> None:
    """The limit passed between two calls of `provision`; the second begins nothing."""
    plan = Plan(limit="10s", clock=clock)
    plan.add_step(GenericStep(exec=calls.hook("one")), name="one")
    plan.add_step(GenericStep(exec=calls.hook("two")), name="two", needs=())
    run = begin(plan)
    run.provision(["one"])
    clock.advance(11.0)
    run.provision(["two"])
    run.clean_up()
    assert calls == ["one"]
    two = run.result().steps["two"]
    assert (two.outcome, two.attempts) == (StepOutcome.TIMED_OUT, ())
    assert isinstance(run.error(), PlanTimeoutError)


def test_no_step_begins_after_the_limit_while_a_listener_is_slow(
    clock: FakeClock, calls: Calls
) -> None:
    """Although the coordinator is busy, the thread of a step that has ended begins no other."""
    plan = Plan(limit="10s", clock=clock)
    is_late = threading.Event()

    def wait() -> None:
        assert is_late.wait(LONGEST_WAIT)

    def be_slow(event: Event) -> None:
        if isinstance(event, StepStarted):
            clock.advance(11.0)
            is_late.set()
            until = time.monotonic() + LONGEST_WAIT
            while not run.step_runs["two"].has_ended and time.monotonic() < until:
                time.sleep(0.001)

    listen(plan, be_slow)
    plan.add_step(GenericStep(exec=wait), name="one")
    plan.add_step(GenericStep(exec=calls.hook("two")), name="two")
    run = begin(plan)
    run.provision()
    run.clean_up()
    assert calls == []
    assert run.result().steps["two"].outcome is StepOutcome.TIMED_OUT


@pytest.mark.parametrize("deed", ["sys.exit(3)", "os._exit(3)", "raise SystemExit(3)"])
def test_a_copy_that_a_script_forks_cleans_nothing_up(deed: str) -> None:
    """It ends at once with its own exit status; the script itself cleans up, once."""
    script = f"""
import os, sys
from pytest_plan import GenericStep, Plan

plan = Plan()
plan.add_step(GenericStep(exec=lambda: 1, cleanup=lambda: print("cleaned", flush=True)))
with plan.provisioned():
    child = os.fork()
    if not child:
        {deed}
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("3\ncleaned\n", "", 0)
