"""The plan: which definitions it rejects, in which order its steps run, and how it ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep, Step
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import PlanDefinitionError, StateError
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import (
    CleanupError,
    PlanCancelledError,
    PlanTimeoutError,
    StepError,
)
from pytest_plan.engine.plan import Plan, begin, listen
from pytest_plan.engine.shared.state import State
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Background, Calls, Gate, cancel_and_sleep, execute

HERE = Path(__file__).name


@pytest.fixture
def plan(clock: FakeClock) -> Plan:
    """An empty plan that needs no real time."""
    return Plan(clock=clock)


def with_body(plan: Plan, body: Callable[[], None]) -> None:
    """Run `plan` with a body."""
    with plan.provisioned():
        body()


class TestDefinition:
    """A plan that cannot run is rejected before any step runs."""

    @pytest.mark.parametrize("jobs", [0, -1, 1.5, "8", True, None])
    def test_jobs_must_be_a_number_of_threads(self, jobs: Any) -> None:
        """It must be an integer, 1 or more."""
        with pytest.raises(PlanDefinitionError, match="jobs"):
            Plan(jobs=jobs)

    @pytest.mark.parametrize("option", ["limit", "cleanup_limit"])
    @pytest.mark.parametrize("value", ["soon", -1, "-5m", 0, True, [], float("nan")])
    def test_limits_must_be_durations(self, option: str, value: Any) -> None:
        """The message names the option and shows the value."""
        with pytest.raises(PlanDefinitionError) as caught:
            Plan(**{option: value})
        assert str(caught.value).startswith(f"{option}: {value!r} ")

    def test_no_limit_is_none(self) -> None:
        """None is the default and may be given."""
        assert Plan(limit=None).execute().limit is None

    def test_a_name_names_one_step(self, plan: Plan) -> None:
        """The message has the places of both declarations."""
        plan.add_step(GenericStep(), name="db")
        line = sys._getframe().f_lineno - 1
        with pytest.raises(PlanDefinitionError) as caught:
            plan.add_step(GenericStep(), name="db")
        assert f"{HERE}:{line} and " in str(caught.value)
        assert f"{HERE}:{line + 3};" in str(caught.value)
        assert caught.value.step == "db"

    @pytest.mark.parametrize("name", ["", "1st", "a-b", "a b", "class", "None", 7])
    def test_a_name_is_an_identifier(self, plan: Plan, name: Any) -> None:
        """It becomes a parameter and a fixture."""
        with pytest.raises(PlanDefinitionError, match=HERE):
            plan.add_step(GenericStep(), name=name)

    @pytest.mark.parametrize("name", ["ctx", "state", "value", "config"])
    def test_a_name_is_not_one_that_hooks_take_already(self, clock: FakeClock, name: str) -> None:
        """No hook could take the value of such a step."""
        plan = Plan(clock=clock, parameters={"config": 1})
        with pytest.raises(PlanDefinitionError, match=name):
            plan.add_step(GenericStep(), name=name).execute()

    def test_steps_without_names_are_numbered(self, plan: Plan) -> None:
        """They are `step-N` and `pause-N`; no identifiers, so they are no fixtures."""
        plan.add_step(GenericStep()).add_pause(0).add_step(GenericStep()).add_pause(0)
        assert list(plan.execute().steps) == ["step-1", "pause-1", "step-3", "pause-2"]

    def test_what_is_no_step_is_refused(self, plan: Plan) -> None:
        """A class in place of its instance is refused as well."""
        with pytest.raises(PlanDefinitionError, match=f"{HERE}:.*is not a step"):
            plan.add_step(GenericStep)  # type: ignore[arg-type]

    def test_a_bad_pause_names_its_place(self, plan: Plan) -> None:
        """The message has the file, the line and the value."""
        with pytest.raises(PlanDefinitionError, match=f"{HERE}:.*'a bit'"):
            plan.add_pause("a bit")

    def test_nothing_runs_when_anything_is_wrong(self, plan: Plan, calls: Calls) -> None:
        """No step runs even if only the last one is wrong."""
        plan.add_step(GenericStep(exec=calls.hook("exec")))
        plan.add_step(GenericStep(), needs="missing")
        with pytest.raises(PlanDefinitionError, match="'missing'"):
            plan.execute()
        assert calls == []

    def test_a_plan_runs_once(self, plan: Plan, calls: Calls) -> None:
        """A second run raises an error and runs no step."""
        plan.add_step(GenericStep(exec=calls.hook("exec")))
        plan.execute()
        with pytest.raises(PlanDefinitionError, match="once"):
            plan.execute()
        with pytest.raises(PlanDefinitionError, match="once"), plan.provisioned():
            calls.note("body")
        assert calls == ["exec"]

    def test_a_step_cannot_be_added_to_a_plan_that_runs(self, plan: Plan) -> None:
        """The error is raised because the step would never run."""
        plan.add_step(GenericStep(exec=lambda: plan.add_step(GenericStep())))
        with pytest.raises(StepError, match="cannot add a step: the plan has already started"):
            plan.execute()

    def test_an_empty_plan_succeeds(self, plan: Plan) -> None:
        """A plan may have no steps."""
        assert plan.execute().outcome is StepOutcome.SUCCEEDED

    def test_adding_is_chainable(self, plan: Plan) -> None:
        """`add_step` and `add_pause` return the plan, as in gsd."""
        assert plan.add_step(GenericStep()).add_pause(0) is plan


class TestOptions:
    """A keyword wins over an attribute, and an attribute over the default."""

    def test_an_attribute_of_the_step_is_an_option(self, plan: Plan, calls: Calls) -> None:
        """The attribute may be the class's or the instance's."""
        hook = calls.hook("exec", failures=2)

        class Web(Step):
            retries = 2
            retry_wait = 0

            def exec(self) -> None:
                hook()

        plan.add_step(Web()).execute()
        assert calls == ["exec"] * 3

    def test_a_keyword_wins_over_an_attribute(self, plan: Plan, calls: Calls) -> None:
        """The keywords of `add_step` decide."""
        step = GenericStep(exec=calls.hook("exec", failures=9)).with_retries(5)
        with pytest.raises(StepError):
            plan.add_step(step, retries=0).execute()
        assert calls == ["exec"]


class TestOrder:
    """The order in which steps run."""

    def test_steps_run_in_the_order_of_the_list(self, plan: Plan, calls: Calls) -> None:
        """Each waits for the one before, although there are enough jobs."""

        def exec(ctx: Context) -> None:
            calls.note(f"{ctx.step} begins")
            ctx.sleep(1)
            calls.note(f"{ctx.step} ends")

        for name in ("one", "two", "three"):
            plan.add_step(GenericStep(exec=exec), name=name)
        plan.execute()
        assert calls == [
            f"{name} {what}" for name in ("one", "two", "three") for what in ("begins", "ends")
        ]

    def test_a_step_that_names_needs_waits_for_those_alone(self, plan: Plan) -> None:
        """It has no order edges, so these two steps run at the same time."""
        both = threading.Barrier(2, timeout=10)
        plan.add_step(GenericStep(), name="net")
        plan.add_step(GenericStep(exec=lambda: both.wait() and None), name="db", needs="net")
        plan.add_step(GenericStep(exec=lambda: both.wait() and None), name="web", needs=["net"])
        result = plan.execute()
        assert result.steps["db"].outcome is StepOutcome.SUCCEEDED
        assert result.steps["web"].outcome is StepOutcome.SUCCEEDED

    def test_no_needs_are_nothing_to_wait_for(self, plan: Plan) -> None:
        """A step with `needs=()` runs at the same time as the first step."""
        both = threading.Barrier(2, timeout=10)
        plan.add_step(GenericStep(exec=lambda: both.wait() and None))
        plan.add_step(GenericStep(exec=lambda: both.wait() and None), needs=())
        result = plan.execute()
        outcomes = [step.outcome for step in result.steps.values()]
        assert outcomes == [StepOutcome.SUCCEEDED] * 2

    def test_a_parameter_is_a_need(self, plan: Plan) -> None:
        """A hook that takes the value of a step by name waits for that step."""
        seen: list[Any] = []
        plan.add_step(GenericStep(exec=lambda db: seen.append(db)), name="web")
        plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(5) or 7), name="db", needs=())
        result = plan.execute()
        assert seen == [7]
        assert result.steps["web"].needs == ("db",)

    @pytest.mark.parametrize("jobs", [1, 2, 3])
    def test_jobs_are_never_exceeded(self, clock: FakeClock, jobs: int) -> None:
        """Of ten independent steps, exactly `jobs` run at the same time."""
        plan = Plan(clock=clock, jobs=jobs)
        lock = threading.Lock()
        running, most = 0, 0

        def exec(ctx: Context) -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            ctx.sleep(1)
            with lock:
                running -= 1

        for _ in range(10):
            plan.add_step(GenericStep(exec=exec, cleanup=exec), needs=())
        plan.execute()
        assert most == jobs

    def test_a_step_that_waits_for_a_retry_keeps_its_job(
        self, clock: FakeClock, calls: Calls
    ) -> None:
        """It counts as one of the running `jobs`."""
        plan = Plan(clock=clock, jobs=1)
        plan.add_step(GenericStep(exec=calls.hook("one", failures=1)), retries=1, retry_wait=5)
        plan.add_step(GenericStep(exec=calls.hook("two")), needs=())
        plan.execute()
        assert calls == ["one", "one", "two"]

    def test_the_pause_of_a_step_holds_up_the_next(
        self, plan: Plan, clock: FakeClock, calls: Calls
    ) -> None:
        """The option `pause` and the step `add_pause` both do."""
        begun = clock.now()
        times: list[float] = []
        plan.add_step(GenericStep(), pause="3s").add_pause(4)
        plan.add_step(GenericStep(exec=lambda: times.append(clock.now() - begun)))
        plan.execute()
        assert times == [pytest.approx(7, abs=0.01)]


class TestFailure:
    """What a failed step stops."""

    def test_the_first_failure_stops_the_plan(self, plan: Plan, calls: Calls) -> None:
        """No further step begins, and the reason names the failed step."""
        plan.add_step(GenericStep(exec=calls.hook("one", failures=1)), name="one")
        plan.add_step(GenericStep(exec=calls.hook("two")), name="two")
        result, error = execute(plan)
        assert isinstance(error, StepError)
        assert calls == ["one"]
        assert result.outcome is StepOutcome.FAILED
        assert result.steps["two"].outcome is StepOutcome.BLOCKED
        assert "'one'" in str(result.steps["two"].reason)

    def test_steps_that_run_may_finish(self, plan: Plan, calls: Calls) -> None:
        """The failure of another step does not stop them."""

        def slow(ctx: Context) -> None:
            ctx.sleep(5)
            calls.note("slow")

        plan.add_step(GenericStep(exec=slow), name="slow")
        plan.add_step(GenericStep(exec=calls.hook("bad", failures=1)), name="bad", needs=())
        result, _ = execute(plan)
        assert calls == ["bad", "slow"]
        assert result.steps["slow"].outcome is StepOutcome.SUCCEEDED

    def test_the_failure_that_came_first_is_raised(self, plan: Plan) -> None:
        """The time of the failure decides, not the order of declaration."""

        def fail(after: float) -> Callable[[Context], None]:
            def exec(ctx: Context) -> None:
                ctx.sleep(after)
                raise ValueError(f"after {after}")

            return exec

        plan.add_step(GenericStep(exec=fail(2)), name="late", needs=())
        plan.add_step(GenericStep(exec=fail(1)), name="early", needs=())
        with pytest.raises(StepError, match="after 1") as caught:
            plan.execute()
        assert caught.value.result is not None
        assert len(caught.value.result.failures()) == 2

    def test_continue_on_error_blocks_only_what_needs_the_step(
        self, clock: FakeClock, calls: Calls
    ) -> None:
        """Needs block, directly and indirectly; order edges do not."""
        plan = Plan(clock=clock, continue_on_error=True)
        plan.add_step(GenericStep(exec=calls.hook("bad", failures=1)), name="bad")
        plan.add_step(GenericStep(exec=calls.hook("next")), name="next")
        plan.add_step(GenericStep(exec=calls.hook("needs")), name="needs", needs="bad")
        plan.add_step(GenericStep(exec=lambda needs: calls.note("far")), name="far")
        result = plan.execute()
        assert calls == ["bad", "next"]
        assert {name: str(step.outcome) for name, step in result.steps.items()} == {
            "bad": "failed",
            "next": "succeeded",
            "needs": "blocked",
            "far": "blocked",
        }
        assert "'bad'" in str(result.steps["needs"].reason)
        assert "'bad'" in str(result.steps["far"].reason)

    def test_continue_on_error_returns_every_failure(self, clock: FakeClock, calls: Calls) -> None:
        """`raise_for_failures` raises them all as one group."""
        plan = Plan(clock=clock, continue_on_error=True)
        for name in ("one", "two"):
            plan.add_step(GenericStep(exec=calls.hook(name, failures=1)), name=name)
        result = plan.execute()
        assert result.outcome is StepOutcome.FAILED
        with pytest.raises(ExceptionGroup) as caught:
            result.raise_for_failures()
        assert [str(error.__cause__) for error in caught.value.exceptions] == ["one 1", "two 1"]

    def test_continue_on_error_raises_when_cleanup_failed(
        self, clock: FakeClock, calls: Calls
    ) -> None:
        """A run whose cleanup failed is no success."""
        plan = Plan(clock=clock, continue_on_error=True)
        plan.add_step(GenericStep(cleanup=calls.hook("cleanup", failures=1)))
        with pytest.raises(CleanupError):
            plan.execute()

    def test_a_skipped_step_skips_what_needs_it_in_both_modes(self, calls: Calls) -> None:
        """They get its reason; steps that are only ordered after it run."""
        for mode in (False, True):
            calls.clear()
            plan = Plan(continue_on_error=mode)
            plan.add_step(GenericStep(exec=calls.hook("db")), name="db", skip="not here")
            plan.add_step(GenericStep(exec=calls.hook("web")), name="web", needs="db")
            plan.add_step(GenericStep(exec=calls.hook("next")), name="next")
            result = plan.execute()
            assert calls == ["next"]
            assert result.steps["web"].outcome is StepOutcome.SKIPPED
            assert result.steps["web"].reason == "needs 'db': not here"


class TestCancel:
    """A plan can be cancelled at any time and from any thread."""

    def test_before_the_run_nothing_runs(self, plan: Plan, calls: Calls) -> None:
        """No step begins, and nothing is cleaned up."""
        plan.add_step(GenericStep(exec=calls.hook("exec"), cleanup=calls.hook("cleanup")),
                      name="db")  # fmt: skip
        plan.cancel("changed my mind")
        result, error = execute(plan)
        assert calls == []
        assert isinstance(error, PlanCancelledError)
        assert "changed my mind" in str(error)
        assert result.steps["db"].outcome is StepOutcome.CANCELLED
        assert result.outcome is StepOutcome.CANCELLED

    def test_between_two_steps_the_second_does_not_begin(self, plan: Plan, calls: Calls) -> None:
        """Once `cancel` has returned, no further step begins."""
        plan.add_step(GenericStep(exec=lambda: plan.cancel()), name="one")
        plan.add_step(GenericStep(exec=calls.hook("two")), name="two")
        result, error = execute(plan)
        assert isinstance(error, PlanCancelledError)
        assert calls == []
        assert result.steps["two"].outcome is StepOutcome.CANCELLED

    def test_the_second_step_does_not_begin_however_often_it_is_tried(self, calls: Calls) -> None:
        """Fifty runs with the real clock show that `cancel` takes effect when it returns."""
        for _ in range(50):
            plan = Plan()
            plan.add_step(GenericStep(exec=plan.cancel))
            plan.add_step(GenericStep(exec=calls.hook("two")))
            with pytest.raises(PlanCancelledError):
                plan.execute()
        assert calls == []

    def test_while_steps_run_all_are_stopped(self, plan: Plan, clock: FakeClock) -> None:
        """They stop at once, and each is `cancelled` with the reason."""
        begun = clock.now()
        for name in ("one", "two", "three"):
            plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(60)), name=name, needs=())
        plan.add_step(GenericStep(exec=lambda: plan.cancel("enough")), name="last", needs=())
        result, error = execute(plan)
        assert isinstance(error, PlanCancelledError)
        assert clock.now() - begun < 1
        for name in ("one", "two", "three"):
            assert result.steps[name].outcome is StepOutcome.CANCELLED
            assert result.steps[name].reason == "enough"

    def test_from_another_thread(self, plan: Plan, gate: Gate, clock: FakeClock) -> None:
        """`cancel` may be called on any thread."""

        def exec(ctx: Context) -> None:
            gate.hold()
            ctx.sleep(60)

        running = Background(plan.add_step(GenericStep(exec=exec)).execute)
        gate.wait_until_reached()
        plan.cancel("from outside")
        gate.open()
        with pytest.raises(PlanCancelledError, match="from outside"):
            running.result()

    def test_from_a_signal_handler(self) -> None:
        """`cancel` takes no lock, so a handler on the coordinator may call it."""
        plan = Plan()
        before = signal.signal(signal.SIGUSR1, lambda *_: plan.cancel("signal"))
        try:

            def exec(ctx: Context) -> None:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                ctx.sleep(60)

            with pytest.raises(PlanCancelledError, match="signal"):
                plan.add_step(GenericStep(exec=exec)).execute()
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_again_changes_nothing(self, plan: Plan, calls: Calls) -> None:
        """The first reason stays, and cleanup runs to its end."""

        def cancel_often(ctx: Context) -> None:
            for number in range(5):
                plan.cancel(f"number {number}")
            ctx.sleep(60)

        plan.add_step(GenericStep(cleanup=calls.hook("cleanup")))
        plan.add_step(GenericStep(exec=cancel_often))
        with pytest.raises(PlanCancelledError, match="number 0"):
            plan.execute()
        assert calls == ["cleanup"]

    def test_during_the_body_is_raised_after_cleanup(self, plan: Plan) -> None:
        """`provisioned()` raises the error, and `ctx.reason` is `cancelled`."""
        reasons: list[str | None] = []
        plan.add_step(GenericStep(cleanup=lambda ctx: reasons.append(ctx.reason)))
        with pytest.raises(PlanCancelledError, match="from the body"), plan.provisioned():
            plan.cancel("from the body")
        assert reasons == ["cancelled"]

    def test_on_the_thread_of_the_body_the_first_call_raises(
        self, plan: Plan, calls: Calls
    ) -> None:
        """Later calls return, so that the body can clean up after itself."""
        plan.add_step(GenericStep(cleanup=calls.hook("cleanup")))

        def body() -> None:
            try:
                plan.cancel("first")
            finally:
                plan.cancel("second")
                calls.note("body ended")

        with pytest.raises(PlanCancelledError, match="first") as caught:
            with_body(plan, body)
        assert calls == ["body ended", "cleanup"]
        assert caught.value.result is not None
        assert caught.value.result.outcome is StepOutcome.CANCELLED
        assert caught.value.result.reason == "first"

    def test_on_another_thread_it_returns_and_the_body_goes_on(
        self, plan: Plan, calls: Calls
    ) -> None:
        """The error is raised when the body has ended."""
        plan.add_step(GenericStep(cleanup=lambda ctx: calls.note(f"cleanup: {ctx.reason}")))

        def body() -> None:
            Background(lambda: plan.cancel("enough")).result()
            calls.note("body")

        with pytest.raises(PlanCancelledError, match="enough"):
            with_body(plan, body)
        assert calls == ["body", "cleanup: cancelled"]

    def test_after_a_call_on_another_thread_the_first_call_of_the_body_raises(
        self, plan: Plan
    ) -> None:
        """The first reason stays."""

        def body() -> None:
            Background(lambda: plan.cancel("first")).result()
            plan.cancel("second")
            pytest.fail("the body went on")

        with pytest.raises(PlanCancelledError, match="first"):
            with_body(plan, body)

    def test_a_body_that_catches_the_error_does_not_hide_it(self, plan: Plan) -> None:
        """It is raised at the end of the `with` statement."""

        def body() -> None:
            with contextlib.suppress(PlanCancelledError):
                plan.cancel("enough")

        with pytest.raises(PlanCancelledError, match="enough"):
            with_body(plan, body)

    def test_the_exception_of_a_cancelled_body_is_kept(self, plan: Plan) -> None:
        """The body ends with an exception of its own."""

        def body() -> None:
            Background(plan.cancel).result()
            raise LookupError

        with pytest.raises(LookupError):
            with_body(plan, body)

    def test_a_body_that_raises_is_the_reason_of_the_cleanup(self, plan: Plan) -> None:
        """`ctx.reason` is `failure`, and the exception is raised unchanged."""
        reasons: list[str | None] = []
        plan.add_step(GenericStep(cleanup=lambda ctx: reasons.append(ctx.reason)))
        with pytest.raises(LookupError), plan.provisioned():
            raise LookupError
        assert reasons == ["failure"]

    @pytest.mark.parametrize("in_body", [False, True])
    def test_during_cleanup_it_changes_nothing(
        self, plan: Plan, calls: Calls, in_body: bool
    ) -> None:
        """Cleanup runs to its end, however often and on whichever threads it is called."""

        def cleanup(ctx: Context) -> None:
            for _ in range(5):
                plan.cancel()
                Background(plan.cancel).result()
                ctx.sleep(0.1)
            calls.note(ctx.step)

        for name in ("net", "volume", "database"):
            plan.add_step(GenericStep(cleanup=cleanup), name=name)
        try:
            with plan.provisioned():
                if in_body:
                    plan.cancel("enough")
        except PlanCancelledError:
            assert in_body
        assert calls == ["database", "volume", "net"]
        assert {step.cleanup.outcome for step in plan.results.values()} == {
            CleanupOutcome.SUCCEEDED
        }

    def test_while_the_last_step_ends_the_body_does_not_begin(self, plan: Plan) -> None:
        """The cancellation comes when no step can be stopped any more."""

        def cancel(event: object) -> None:
            if type(event).__name__ == "StepFinished":
                plan.cancel("late")

        listen(plan, cancel)
        plan.add_step(GenericStep())
        with pytest.raises(PlanCancelledError, match="late"), plan.provisioned():
            pytest.fail("the body began")

    def test_after_the_run_does_nothing(self, plan: Plan) -> None:
        """Cancelling a finished run has no effect."""
        assert plan.execute().outcome is StepOutcome.SUCCEEDED
        plan.cancel()
        assert plan.results == {}

    def test_a_step_that_has_succeeded_stays_so(self, plan: Plan) -> None:
        """The message counts it."""
        plan.add_step(GenericStep(), name="one")
        plan.add_step(GenericStep(exec=cancel_and_sleep(plan)), name="two")
        result, error = execute(plan)
        assert result.steps["one"].outcome is StepOutcome.SUCCEEDED
        assert "1 of 2 steps had succeeded" in str(error)

    def test_a_pause_ends_at_once(self, plan: Plan, clock: FakeClock) -> None:
        """No time passes."""
        begun = clock.now()
        plan.add_pause(60)
        plan.add_step(GenericStep(exec=lambda: plan.cancel()), needs=())
        result, _ = execute(plan)
        assert result.steps["pause-1"].outcome is StepOutcome.CANCELLED
        assert clock.now() - begun < 1

    def test_cancelling_is_raised_with_continue_on_error_too(self, clock: FakeClock) -> None:
        """A cancellation is not the failure of a step."""
        plan = Plan(clock=clock, continue_on_error=True)
        plan.add_step(GenericStep(exec=lambda: plan.cancel()))
        plan.add_step(GenericStep())
        with pytest.raises(PlanCancelledError):
            plan.execute()


class TestLimit:
    """The longest time that the plan may take."""

    def test_the_limit_stops_what_runs_and_what_would(self, clock: FakeClock, calls: Calls) -> None:
        """At the limit, running steps and later ones are `timed_out`."""
        plan = Plan(limit="10s", clock=clock)
        begun = clock.now()
        plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(60)), name="one")
        plan.add_step(GenericStep(exec=calls.hook("two")), name="two")
        result, error = execute(plan)
        assert isinstance(error, PlanTimeoutError)
        assert isinstance(error, TimeoutError)
        assert calls == []
        assert clock.now() - begun == pytest.approx(10, abs=0.01)
        assert result.outcome is StepOutcome.TIMED_OUT
        assert {step.outcome for step in result.steps.values()} == {StepOutcome.TIMED_OUT}

    def test_the_limit_is_not_retried(self, clock: FakeClock, calls: Calls) -> None:
        """A step that the limit stopped gets no further attempt."""
        plan = Plan(limit=10, clock=clock)

        def exec(ctx: Context) -> None:
            calls.note("exec")
            ctx.sleep(60)

        plan.add_step(GenericStep(exec=exec), retries=3, retry_wait=0)
        with pytest.raises(PlanTimeoutError):
            plan.execute()
        assert calls == ["exec"]

    def test_the_limit_passes_in_the_body_too(self, clock: FakeClock) -> None:
        """`provisioned()` raises after the body, and `ctx.reason` is `timeout`."""
        plan = Plan(limit=10, clock=clock)
        reasons: list[str | None] = []
        plan.add_step(GenericStep(cleanup=lambda ctx: reasons.append(ctx.reason)))
        with pytest.raises(PlanTimeoutError), plan.provisioned():
            clock.advance(11)
        assert reasons == ["timeout"]

    def test_a_limit_that_is_kept_has_no_effect(self, clock: FakeClock) -> None:
        """The result has the limit in seconds."""
        plan = Plan(limit="1m", clock=clock).add_step(GenericStep(exec=lambda ctx: ctx.sleep(59)))
        result = plan.execute()
        assert result.outcome is StepOutcome.SUCCEEDED
        assert result.limit == 60

    def test_the_clock_can_be_held(self, clock: FakeClock) -> None:
        """The time while the clock is held does not count against the limit."""
        plan = Plan(limit=10, clock=clock).add_step(GenericStep())
        run = begin(plan)
        run.provision()
        run.clock.hold()
        clock.advance(100)
        run.clock.release()
        run.clean_up()
        assert run.error() is None


class TestProvisioned:
    """The context manager `provisioned`."""

    def test_the_body_runs_between_the_phases(self, plan: Plan, calls: Calls) -> None:
        """The body gets the State of the steps."""
        plan.add_step(
            GenericStep(exec=calls.hook("exec"), cleanup=calls.hook("cleanup")), name="db"
        )
        with plan.provisioned() as state:
            calls.note(f"body with {state['db']}")
        assert calls == ["exec", "body with exec", "cleanup"]

    def test_the_body_does_not_run_when_a_step_failed(self, plan: Plan, calls: Calls) -> None:
        """StepError is raised, after cleanup."""
        plan.add_step(GenericStep(cleanup=calls.hook("cleanup")))
        plan.add_step(GenericStep(exec=calls.hook("exec", failures=1)))
        with pytest.raises(StepError) as caught, plan.provisioned():
            calls.note("body")
        assert calls == ["exec", "cleanup"]
        assert caught.value.result is not None

    def test_a_body_that_raises_is_cleaned_up_after(self, plan: Plan, calls: Calls) -> None:
        """Its exception is raised unchanged."""
        error = LookupError()
        plan.add_step(GenericStep(cleanup=calls.hook("cleanup")))
        with pytest.raises(LookupError) as caught, plan.provisioned():
            raise error
        assert caught.value is error
        assert not hasattr(error, "__notes__")
        assert calls == ["cleanup"]

    def test_writes_of_the_body_are_refused_once_cleanup_has_begun(self, plan: Plan) -> None:
        """The State does not change during cleanup, except by steps."""
        refused: list[BaseException] = []

        def cleanup() -> None:
            try:
                plan.state["late"] = 1
            except StateError as error:
                refused.append(error)

        plan.add_step(GenericStep(cleanup=cleanup))
        with plan.provisioned() as state:
            state["early"] = 1
        assert "cleanup has begun" in str(refused[0])
        assert dict(plan.state) == {"early": 1}

    def test_state_set_before_the_run_is_there_in_it(self, plan: Plan) -> None:
        """A script can pass values to its steps."""
        plan.state["url"] = "http://"
        seen: list[str] = []
        plan.add_step(GenericStep(exec=lambda state: seen.append(state["url"]))).execute()
        assert seen == ["http://"]


class TestRunsOnce:
    """A plan runs once, whichever threads try to run it."""

    def test_of_two_threads_one_runs_the_plan(self) -> None:
        """The other one gets PlanDefinitionError, even if both begin at the same moment."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            assert [self._run_twice() for _ in range(50)] == [(1, 1)] * 50
        finally:
            sys.setswitchinterval(interval)

    def _run_twice(self) -> tuple[int, int]:
        """Execute a plan on two threads; return how often it ran, and how often it was refused."""
        runs: list[int] = []
        refused: list[PlanDefinitionError] = []
        plan = Plan().add_step(GenericStep(exec=lambda: runs.append(1)))
        barrier = threading.Barrier(2)

        def execute() -> None:
            barrier.wait()
            try:
                plan.execute()
            except PlanDefinitionError as error:
                refused.append(error)

        for thread in [Background(execute) for _ in range(2)]:
            thread.result()
        return len(runs), len(refused)

    def test_a_step_cannot_run_its_own_plan(self, plan: Plan) -> None:
        """It is refused at once and does not wait for itself."""
        plan.add_step(GenericStep(exec=plan.execute))
        with pytest.raises(StepError, match="has been executed already"):
            plan.execute()

    def test_a_plan_that_was_refused_can_be_completed_and_run(self, plan: Plan) -> None:
        """An invalid plan has not run."""
        plan.add_step(GenericStep(), name="web", needs="db")
        with pytest.raises(PlanDefinitionError, match="db"):
            plan.execute()
        assert (
            plan.add_step(GenericStep(), name="db", needs=())
            .execute()
            .steps["web"]
            .outcome.provides
        )


class TestInterrupts:
    """KeyboardInterrupt at any point, and plans on any thread."""

    def test_a_listener_that_is_interrupted_does_not_break_the_run(
        self, plan: Plan, calls: Calls
    ) -> None:
        """After Ctrl-C in a listener, the running step is stopped and cleaned up."""

        def interrupted(event: object) -> None:
            if type(event).__name__ == "StepStarted":
                raise KeyboardInterrupt

        def exec(ctx: Context) -> None:
            ctx.defer(calls.note, "undo")
            try:
                ctx.sleep(60)
            finally:
                calls.note("exec ended")

        listen(plan, interrupted)
        plan.add_step(GenericStep(exec=exec))
        with pytest.raises(KeyboardInterrupt):
            plan.execute()
        assert calls == ["exec ended", "undo"]

    def test_a_plan_may_run_inside_a_step(self, plan: Plan, clock: FakeClock) -> None:
        """Plans are independent of each other."""
        inner = Plan().add_step(GenericStep(exec=lambda: 7), name="seven")

        def exec() -> Any:
            with inner.provisioned() as state:
                return state["seven"]

        with plan.add_step(GenericStep(exec=exec), name="outer").provisioned() as state:
            assert state["outer"] == 7

    def test_a_plan_may_run_on_any_thread(self, calls: Calls) -> None:
        """It does not need the main thread."""
        plan = Plan().add_step(GenericStep(exec=calls.hook("exec")))
        assert Background(plan.execute).result().outcome is StepOutcome.SUCCEEDED

    def test_a_stuck_step_does_not_delay_the_exit_of_the_process(self) -> None:
        """Its thread is a daemon thread."""
        script = (
            "import time\n"
            "from pytest_plan import GenericStep, Plan, StepTimeoutError\n"
            "plan = Plan().add_step(GenericStep(exec=lambda: time.sleep(60)), timeout=0.05)\n"
            "try: plan.execute()\n"
            "except StepTimeoutError as error: print(*error.__notes__)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
        )
        assert done.stdout == "it did not stop when requested, and its thread was abandoned\n"
        assert done.stderr == ""

    def test_the_machines_clock_is_the_default(self) -> None:
        """A plan without a clock measures real time."""
        begun = SystemClock().now()
        Plan().add_pause(0.01).execute()
        assert SystemClock().now() - begun >= 0.01


def test_steps_share_one_state(plan: Plan) -> None:
    """A step reads what an earlier step wrote."""
    seen: list[Any] = []

    def write(state: State) -> None:
        state["key"] = "value"

    plan.add_step(GenericStep(exec=write))
    plan.add_step(GenericStep(exec=lambda state: seen.append(state["key"])))
    plan.execute()
    assert seen == ["value"]


def test_a_step_cannot_write_the_key_of_another(plan: Plan) -> None:
    """It fails with StateError; it can write its own key."""

    def exec(state: State) -> None:
        state["two"] = 1

    plan.add_step(GenericStep(exec=exec), name="one").add_step(GenericStep(), name="two")
    with pytest.raises(StepError, match="belongs to the step 'two'") as caught:
        plan.execute()
    assert isinstance(caught.value.__cause__, StateError)


def test_parameters_are_given_by_name(clock: FakeClock) -> None:
    """A parameter with a default keeps it, even if the plan knows the name."""
    seen: list[Any] = []
    plan = Plan(clock=clock, parameters={"config": "c", "other": "o"})

    def exec(config: str, other: str = "default", state: State | None = None) -> None:
        seen.extend([config, other, state])

    plan.add_step(GenericStep(exec=exec)).execute()
    assert seen == ["c", "default", None]


def test_a_loop_can_bind_its_variable_as_a_default(plan: Plan, calls: Calls) -> None:
    """This works for every hook and every name, even for names that hooks can take."""
    for value in ("orders", "users"):
        for hook in ("pre_exec", "exec", "post_exec", "cleanup"):
            step = GenericStep(**{hook: lambda value=value, ctx=hook: calls.note(f"{value} {ctx}")})
            plan.add_step(step, name=f"{value}_{hook}")
    plan.execute()
    assert sorted(calls) == sorted(
        f"{value} {hook}"
        for value in ("orders", "users")
        for hook in ("pre_exec", "exec", "post_exec", "cleanup")
    )


def test_a_plan_shows_what_is_promised() -> None:
    """What the plugin uses beyond that are functions of the module."""
    public = {name for name in dir(Plan) if not name.startswith("_")}
    assert public == {
        "add_pause", "add_step", "cancel", "execute", "provisioned", "results", "state",
    }  # fmt: skip
