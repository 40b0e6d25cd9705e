"""The reverse phase: its order, what runs, its time limits, and its errors."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.model.events import CleanupBegan, CleanupInterrupted, StepCleaned
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.engine.model.results import (
    CleanupError,
    PlanCancelledError,
    PlanTimeoutError,
    StepError,
)
from pytest_plan.engine.plan import Plan, begin, listen
from pytest_plan.engine.processes.process import Process
from pytest_plan.engine.processes.tree import KILL
from tests.engine.support import journals
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Calls, Gate, cancel_and_sleep, execute, record_events


@pytest.fixture
def plan(clock: FakeClock) -> Plan:
    """An empty plan that needs no real time."""
    return Plan(clock=clock)


class TestOrder:
    """The order of cleanup."""

    def test_a_list_is_cleaned_up_in_reverse(self, plan: Plan, calls: Calls) -> None:
        """The step that completed last is cleaned up first."""
        for name in ("one", "two", "three"):
            plan.add_step(GenericStep(cleanup=calls.hook(name)), name=name)
        plan.execute()
        assert calls == ["three", "two", "one"]

    def test_a_step_is_cleaned_up_after_those_that_need_it(self, plan: Plan, calls: Calls) -> None:
        """This holds even if they completed before an unrelated step."""
        plan.add_step(GenericStep(cleanup=calls.hook("net")), name="net", needs=())
        plan.add_step(GenericStep(cleanup=calls.hook("db")), name="db", needs="net")
        plan.add_step(
            GenericStep(exec=lambda ctx: ctx.sleep(5), cleanup=calls.hook("web")),
            name="web",
            needs="net",
        )
        plan.execute()
        assert sorted(calls[:2]) == ["db", "web"]
        assert calls[2:] == ["net"]

    def test_a_step_waits_until_those_that_follow_it_are_cleaned_up(
        self, plan: Plan, calls: Calls
    ) -> None:
        """A slow cleanup delays the cleanup of the steps before it."""

        def slow(ctx: Context) -> None:
            ctx.sleep(5)
            calls.note("upper")

        plan.add_step(GenericStep(cleanup=calls.hook("lower")), name="lower")
        plan.add_step(GenericStep(cleanup=slow), name="upper")
        plan.execute()
        assert calls == ["upper", "lower"]

    def test_with_one_job_independent_steps_go_in_reverse_of_completion(
        self, clock: FakeClock, calls: Calls
    ) -> None:
        """The order of declaration does not matter."""
        plan = Plan(clock=clock, jobs=1)
        for name in ("one", "two", "three"):
            plan.add_step(GenericStep(cleanup=calls.hook(name)), name=name, needs=())
        plan.execute()
        assert calls == ["three", "two", "one"]

    def test_independent_cleanups_run_at_the_same_time(self, plan: Plan) -> None:
        """Two cleanups that wait for each other both end."""
        both = threading.Barrier(2, timeout=10)
        for name in ("one", "two"):
            plan.add_step(GenericStep(cleanup=lambda: both.wait()), name=name, needs=())
        result = plan.execute()
        cleanups = [step.cleanup.outcome for step in result.steps.values()]
        assert cleanups == [CleanupOutcome.SUCCEEDED] * 2
        assert not both.broken

    def test_a_failed_cleanup_does_not_hold_up_the_next(self, plan: Plan, calls: Calls) -> None:
        """The steps that the failed one needs are cleaned up anyway."""
        plan.add_step(GenericStep(cleanup=calls.hook("lower")), name="lower")
        plan.add_step(GenericStep(cleanup=calls.hook("upper", failures=1)), name="upper")
        with pytest.raises(CleanupError):
            plan.execute()
        assert calls == ["upper", "lower"]


class TestWhatRuns:
    """Which cleanup hooks and deferred calls run."""

    @pytest.mark.parametrize("failing", ["pre_exec", "exec", "post_exec"])
    @pytest.mark.parametrize("when", ["succeeded", "attempted"])
    def test_the_cleanup_hook_of_a_failed_step_runs_only_when_asked_for(
        self, plan: Plan, calls: Calls, failing: str, when: str
    ) -> None:
        """`cleanup_when="attempted"` requests it."""
        hooks = {failing: calls.hook(failing, failures=1)}
        plan.add_step(GenericStep(**hooks, cleanup=calls.hook("cleanup")), cleanup_when=when)
        with pytest.raises(StepError):
            plan.execute()
        assert calls == ([failing, "cleanup"] if when == "attempted" else [failing])

    @pytest.mark.parametrize("when", ["succeeded", "attempted"])
    def test_a_step_that_never_began_is_not_cleaned_up(
        self, plan: Plan, calls: Calls, when: str
    ) -> None:
        """Its cleanup hook does not run even with "attempted"."""
        plan.add_step(GenericStep(exec=calls.hook("exec", failures=1)))
        plan.add_step(GenericStep(cleanup=calls.hook("cleanup")), name="later", cleanup_when=when)
        result, _ = execute(plan)
        assert calls == ["exec"]
        assert result.steps["later"].cleanup.outcome is CleanupOutcome.NONE

    def test_cleanup_runs_for_a_step_whose_exec_was_interrupted(
        self, plan: Plan, calls: Calls
    ) -> None:
        """With "attempted" it runs after a timeout as well."""
        step = GenericStep(exec=lambda ctx: ctx.sleep(60), cleanup=calls.hook("cleanup"))
        with pytest.raises(StepError):
            plan.add_step(step, timeout=5, cleanup_when="attempted").execute()
        assert calls == ["cleanup"]

    def test_the_cleanup_of_an_attempted_step_gets_the_value_that_exec_returned(
        self, plan: Plan
    ) -> None:
        """The hook needs `value`, although the step failed after exec."""
        seen: list[Any] = []

        def fail() -> None:
            raise ValueError

        step = GenericStep(
            exec=lambda: "server 7", post_exec=fail, cleanup=lambda value: seen.append(value)
        )
        with pytest.raises(StepError):
            plan.add_step(step, cleanup_when="attempted").execute()
        assert seen == ["server 7"]

    def test_the_cleanup_hook_runs_once_after_several_attempts(
        self, plan: Plan, calls: Calls
    ) -> None:
        """It runs once per step, not once per attempt."""
        step = GenericStep(exec=calls.hook("exec", failures=2), cleanup=calls.hook("cleanup"))
        plan.add_step(step, retries=2, retry_wait=0).execute()
        assert calls == ["exec"] * 3 + ["cleanup"]

    def test_deferred_calls_follow_the_cleanup_hook_last_first(
        self, plan: Plan, calls: Calls
    ) -> None:
        """The deferred calls of all hooks run, with their arguments."""

        def make(what: str) -> Callable[[Context], None]:
            return lambda ctx: ctx.defer(calls.note, text=f"undo {what}")

        plan.add_step(
            GenericStep(
                pre_exec=make("pre"),
                exec=make("exec"),
                post_exec=make("post"),
                cleanup=calls.hook("cleanup"),
            )
        )
        plan.execute()
        assert calls == ["cleanup", "undo post", "undo exec", "undo pre"]

    @pytest.mark.parametrize("ending", ["success", "failure", "timeout", "cancel", "limit"])
    def test_deferred_calls_run_however_the_step_ended(
        self, clock: FakeClock, calls: Calls, ending: str
    ) -> None:
        """They run after success, failure, timeout, cancel, and the plan's limit."""
        plan = Plan(clock=clock, limit=30)

        def exec(ctx: Context) -> None:
            ctx.defer(calls.note, "undo")
            if ending == "failure":
                raise ValueError
            if ending == "cancel":
                plan.cancel()
            if ending != "success":
                ctx.sleep(50)

        plan.add_step(GenericStep(exec=exec), timeout=10 if ending == "timeout" else None)
        _, error = execute(plan)
        assert (error is None) == (ending == "success")
        assert calls == ["undo"]

    def test_deferred_calls_trees_and_the_tail_are_one_stack(
        self, plan: Plan, calls: Calls
    ) -> None:
        """They are undone in reverse order of registration, whatever their kind."""
        processes: list[Process] = []

        def look(what: str) -> None:
            calls.note(f"{what}: {[process.poll() is None for process in processes]}")

        def exec(ctx: Context) -> Any:
            ctx.defer(look, "first")
            processes.append(ctx.start(["sleep", "60"]))
            ctx.defer(look, "second")
            yield
            look("tail")

        def post_exec(ctx: Context) -> None:
            processes.append(ctx.start(["sleep", "60"]))
            ctx.defer(look, "third")

        plan.add_step(GenericStep(exec=exec, post_exec=post_exec))
        plan.execute()
        assert calls == [
            "third: [True, True]",
            "tail: [True, False]",
            "second: [True, False]",
            "first: [False, False]",
        ]

    def test_what_cleanup_defers_runs_too(self, plan: Plan, calls: Calls) -> None:
        """A cleanup hook can defer calls, too."""
        step = GenericStep(cleanup=lambda ctx: ctx.defer(calls.note, "undo"))
        plan.add_step(step).execute()
        assert calls == ["undo"]

    def test_an_async_function_can_be_deferred(self, plan: Plan, calls: Calls) -> None:
        """It runs in an event loop."""

        async def undo() -> None:
            calls.note("undo")

        plan.add_step(GenericStep(exec=lambda ctx: ctx.defer(undo))).execute()
        assert calls == ["undo"]

    def test_a_pause_is_not_cleaned_up(self, plan: Plan) -> None:
        """A pause has nothing to undo."""
        result = plan.add_pause(1).execute()
        assert result.steps["pause-1"].cleanup.outcome is CleanupOutcome.NONE

    def test_cleanup_may_write_state_but_a_test_may_not(self, plan: Plan) -> None:
        """Steps may write until the end of the run."""
        seen: list[Any] = []

        def cleanup(ctx: Context) -> None:
            ctx.state["note"] = 1
            seen.append(ctx.state["note"])

        plan.add_step(GenericStep(cleanup=cleanup)).execute()
        assert seen == [1]


class TestReason:
    """`ctx.reason` says why cleanup runs."""

    @pytest.mark.parametrize("reason", ["success", "failure", "cancelled", "timeout"])
    def test_the_reason_is_how_the_plan_ended(self, clock: FakeClock, reason: str) -> None:
        """Each outcome of the plan has its own reason."""
        plan = Plan(clock=clock, limit=10)
        seen: list[str | None] = []

        def last(ctx: Context) -> None:
            assert ctx.reason is None
            if reason == "failure":
                raise ValueError
            if reason == "cancelled":
                plan.cancel()
            if reason != "success":
                ctx.sleep(60)

        plan.add_step(GenericStep(cleanup=lambda ctx: seen.append(ctx.reason)))
        plan.add_step(GenericStep(exec=last))
        execute(plan)
        assert seen == [reason]


class TestShield:
    """Cleanup is not stopped by the request that stopped the plan."""

    def test_cleanup_can_sleep_and_run_after_a_cancel(self, plan: Plan, calls: Calls) -> None:
        """The `ctx` of cleanup is not cancelled."""

        def cleanup(ctx: Context) -> None:
            assert not ctx.cancelled
            ctx.check()
            ctx.sleep(5)
            calls.note(ctx.run([sys.executable, "-c", "print('ran')"]).stdout.strip())

        plan.add_step(GenericStep(cleanup=cleanup))
        plan.add_step(GenericStep(exec=cancel_and_sleep(plan)))
        with pytest.raises(PlanCancelledError):
            plan.execute()
        assert calls == ["ran"]

    def test_the_limit_is_not_taken_from_cleanup(self, clock: FakeClock, calls: Calls) -> None:
        """Cleanup may take longer than the plan's limit."""
        plan = Plan(clock=clock, limit=10)

        def cleanup(ctx: Context) -> None:
            ctx.sleep(30)
            calls.note("cleanup")

        plan.add_step(GenericStep(cleanup=cleanup))
        plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(60)))
        with pytest.raises(PlanTimeoutError):
            plan.execute()
        assert calls == ["cleanup"]

    @pytest.mark.parametrize("ending", ["cancel", "limit", "timeout"])
    def test_a_deferred_method_of_ctx_works_after_the_step_was_stopped(
        self, clock: FakeClock, tmp_path: Path, ending: str
    ) -> None:
        """`ctx.defer(ctx.run, [...])` is a common way to write an undo."""
        plan = Plan(clock=clock, limit=10 if ending == "limit" else None)
        undone = tmp_path / "undone"

        def exec(ctx: Context) -> None:
            ctx.defer(ctx.run, ["touch", str(undone)])
            if ending == "cancel":
                plan.cancel()
            ctx.sleep(60)

        plan.add_step(GenericStep(exec=exec), timeout=5 if ending == "timeout" else None)
        _, error = execute(plan)
        assert error is not None
        assert undone.exists()

    def test_a_cancel_during_cleanup_ends_nothing(self, plan: Plan, calls: Calls) -> None:
        """Cleanup continues, and an event lists what is unfinished."""
        events = record_events(plan)
        plan.add_step(GenericStep(cleanup=calls.hook("lower")), name="lower")

        def upper(ctx: Context) -> None:
            plan.cancel("impatient")
            ctx.sleep(5)
            calls.note("upper")

        plan.add_step(GenericStep(cleanup=upper), name="upper")
        plan.execute()
        assert calls == ["upper", "lower"]
        (interrupted,) = [event for event in events if isinstance(event, CleanupInterrupted)]
        assert sorted(interrupted.steps) == ["lower", "upper"]


class TestBudget:
    """Whatever exceeds its time limit is left and reported; everything else runs."""

    def test_a_cleanup_is_stopped_at_its_timeout(
        self, plan: Plan, calls: Calls, clock: FakeClock
    ) -> None:
        """It is woken like any hook, and the steps before it are cleaned up."""
        begun = clock.now()
        plan.add_step(GenericStep(cleanup=calls.hook("lower")), name="lower")
        plan.add_step(
            GenericStep(cleanup=lambda ctx: ctx.sleep(100)), name="upper", cleanup_timeout=20
        )
        with pytest.raises(CleanupError) as caught:
            plan.execute()
        assert calls == ["lower"]
        assert clock.now() - begun == pytest.approx(20, abs=0.1)
        assert "cleanup_timeout of 20.0s" in str(caught.value.exceptions[0])
        assert plan.results["upper"].cleanup.outcome is CleanupOutcome.TIMED_OUT

    def test_a_minute_is_the_default(self, plan: Plan, clock: FakeClock) -> None:
        """Without an option, a cleanup is stopped after 60 seconds."""
        begun = clock.now()
        plan.add_step(GenericStep(cleanup=lambda ctx: ctx.sleep(100)))
        with pytest.raises(CleanupError):
            plan.execute()
        assert clock.now() - begun == pytest.approx(60, abs=0.1)

    def test_the_timeout_is_for_the_whole_cleanup_of_the_step(
        self, plan: Plan, clock: FakeClock
    ) -> None:
        """The hook and the deferred calls share it."""
        begun = clock.now()

        async def undo() -> None:
            await asyncio.sleep(3600)

        step = GenericStep(exec=lambda ctx: ctx.defer(undo), cleanup=lambda ctx: ctx.sleep(15))
        with pytest.raises(CleanupError, match="step-1"):
            plan.add_step(step, cleanup_timeout=20).execute()
        assert clock.now() - begun == pytest.approx(20, abs=0.1)

    def test_a_cleanup_that_hangs_is_abandoned_and_the_others_run(
        self, plan: Plan, calls: Calls, gate: Gate
    ) -> None:
        """The error and the result list it with its stack."""
        plan.add_step(GenericStep(cleanup=calls.hook("lower")), name="lower")
        plan.add_step(GenericStep(cleanup=lambda: gate.hang()), name="upper", cleanup_timeout=5)
        with pytest.raises(CleanupError, match="'upper'"):
            plan.execute()
        assert calls == ["lower"]
        cleanup = plan.results["upper"].cleanup
        assert cleanup.outcome is CleanupOutcome.ABANDONED
        assert cleanup.left == ("its cleanup hook",)
        assert "hold" in plan.results["upper"].stack

    @pytest.mark.parametrize("how", ["sleeps", "hangs"])
    def test_a_call_that_uses_up_the_time_keeps_no_other_from_running(
        self, plan: Plan, calls: Calls, make_gate: Callable[[], Gate], how: str
    ) -> None:
        """The undos that are left share as much time again."""

        def stuck(ctx: Context) -> None:
            calls.note("stuck")
            ctx.sleep(100) if how == "sleeps" else make_gate().hang()

        def exec(ctx: Context) -> None:
            ctx.defer(calls.note, "first")
            ctx.defer(stuck, ctx)
            ctx.defer(calls.note, "second")
            ctx.defer(stuck, ctx)
            ctx.defer(ctx.sleep, 0.5)

        plan.add_step(GenericStep(exec=exec, cleanup=stuck), name="db", cleanup_timeout=5)
        with pytest.raises(CleanupError) as caught:
            plan.execute()
        assert calls == ["stuck", "stuck", "second", "stuck", "first"]
        assert len(caught.value.exceptions) == 3
        assert "its share of the cleanup_timeout" in str(caught.value.exceptions[1])

    def test_the_undos_that_are_left_share_the_cleanup_timeout(
        self, plan: Plan, clock: FakeClock
    ) -> None:
        """A step's cleanup takes at most twice its cleanup_timeout."""
        begun = clock.now()

        def exec(ctx: Context) -> None:
            for _ in range(4):
                ctx.defer(ctx.sleep, 100)

        plan.add_step(GenericStep(exec=exec), name="db", cleanup_timeout=20)
        with pytest.raises(CleanupError) as caught:
            plan.execute()
        assert len(caught.value.exceptions) == 4
        assert clock.now() - begun == pytest.approx(40, abs=0.1)

    def test_what_has_no_time_left_is_named(
        self, clock: FakeClock, calls: Calls, gate: Gate
    ) -> None:
        """`left` lists every deferred call that could not run."""
        plan = Plan(clock=clock, cleanup_limit=5)

        def exec(ctx: Context) -> None:
            ctx.defer(calls.hook("undo"))

        plan.add_step(GenericStep(exec=exec, cleanup=lambda: gate.hang()), name="db")
        with pytest.raises(CleanupError):
            plan.execute()
        assert calls == []
        left = plan.results["db"].cleanup.left
        assert left[0] == "its cleanup hook"
        assert len(left) == 2

    def test_process_trees_are_ended_although_no_time_is_left(self, plan: Plan, gate: Gate) -> None:
        """They are killed at once."""
        processes: list[Process] = []
        plan.add_step(
            GenericStep(
                exec=lambda ctx: processes.append(ctx.start(["sleep", "60"])),
                cleanup=lambda: gate.hang(),
            ),
            cleanup_timeout=5,
        )
        with pytest.raises(CleanupError):
            plan.execute()
        assert processes[0].poll() is not None

    def test_the_cleanup_limit_is_for_all_steps_together(
        self, clock: FakeClock, calls: Calls
    ) -> None:
        """Cleanups that have not begun by then are listed in `left`."""
        plan = Plan(clock=clock, cleanup_limit=25)
        begun = clock.now()
        plan.add_step(GenericStep(cleanup=calls.hook("never")), name="one")
        plan.add_step(GenericStep(cleanup=lambda ctx: ctx.sleep(50)), name="two")
        plan.add_step(GenericStep(cleanup=lambda ctx: ctx.sleep(20)), name="three")
        with pytest.raises(CleanupError) as caught:
            plan.execute()
        assert clock.now() - begun == pytest.approx(25, abs=0.1)
        assert calls == []
        outcomes = {name: step.cleanup.outcome for name, step in plan.results.items()}
        assert outcomes == {
            "one": CleanupOutcome.ABANDONED,
            "two": CleanupOutcome.TIMED_OUT,
            "three": CleanupOutcome.SUCCEEDED,
        }
        assert sorted(error.step for error in caught.value.exceptions) == ["one", "two"]  # type: ignore[union-attr]
        assert "cleanup limit" in str(caught.value.exceptions)

    def test_trees_are_ended_past_the_cleanup_limit(self, clock: FakeClock) -> None:
        """This includes the trees of a step whose cleanup never began."""
        processes: list[Process] = []
        plan = Plan(clock=clock, cleanup_limit=5)
        plan.add_step(GenericStep(exec=lambda ctx: processes.append(ctx.start(["sleep", "60"]))))
        plan.add_step(GenericStep(cleanup=lambda ctx: ctx.sleep(50)))
        with pytest.raises(CleanupError):
            plan.execute()
        assert processes[0].poll() is not None


class TestErrors:
    """Errors of cleanup are all reported and never replace the first failure."""

    def test_all_failures_are_in_one_group(self, plan: Plan, calls: Calls) -> None:
        """Each is a StepError with hook `cleanup`, its cause, and a note of what was undone."""

        def exec(ctx: Context) -> None:
            ctx.defer(calls.hook("deferred", failures=1))

        plan.add_step(GenericStep(exec=exec, cleanup=calls.hook("a", failures=1)), name="one")
        plan.add_step(GenericStep(cleanup=calls.hook("b", failures=1)), name="two")
        with pytest.raises(CleanupError) as caught:
            plan.execute()
        assert calls == ["b", "a", "deferred"]
        errors: list[Any] = list(caught.value.exceptions)
        assert {(error.step, error.hook, str(error.__cause__)) for error in errors} == {
            ("one", "cleanup", "a 1"),
            ("one", "cleanup", "deferred 1"),
            ("two", "cleanup", "b 1"),
        }
        assert any("its cleanup hook" in note for error in errors for note in error.__notes__)
        assert caught.value.result is not None
        assert caught.value.result.steps["one"].cleanup.outcome is CleanupOutcome.FAILED

    def test_the_first_failure_is_raised_and_carries_those_of_cleanup(
        self, plan: Plan, calls: Calls
    ) -> None:
        """They are in a note and in `cleanup_error`."""
        plan.add_step(GenericStep(cleanup=calls.hook("cleanup", failures=1)), name="one")
        plan.add_step(GenericStep(exec=calls.hook("exec", failures=1)), name="two")
        with pytest.raises(StepError) as caught:
            plan.execute()
        assert (caught.value.step, caught.value.hook) == ("two", "exec")
        assert isinstance(caught.value.cleanup_error, CleanupError)
        assert any("'one'" in note for note in caught.value.__notes__)

    def test_a_cancelled_plan_carries_the_failures_of_cleanup(
        self, plan: Plan, calls: Calls
    ) -> None:
        """PlanCancelledError has a `cleanup_error` as well."""
        plan.add_step(GenericStep(cleanup=calls.hook("cleanup", failures=1)))
        plan.add_step(GenericStep(exec=cancel_and_sleep(plan)))
        with pytest.raises(PlanCancelledError) as caught:
            plan.execute()
        assert isinstance(caught.value.cleanup_error, CleanupError)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_an_interrupt_carries_the_failures_of_cleanup(
        self, plan: Plan, calls: Calls, kind: type[BaseException]
    ) -> None:
        """They are in a note, because the interrupt is raised unchanged."""
        plan.add_step(GenericStep(cleanup=calls.hook("cleanup", failures=1)), name="one")
        plan.add_step(GenericStep(exec=calls.hook("exec", failures=1, error=kind)))
        with pytest.raises(kind) as caught:
            plan.execute()
        assert any("'one'" in note for note in caught.value.__notes__)

    def test_a_body_that_raises_keeps_its_exception(self, plan: Plan, calls: Calls) -> None:
        """The same object is raised, with a note and `cleanup_error`."""
        error = LookupError("of the body")
        plan.add_step(GenericStep(cleanup=calls.hook("cleanup", failures=1)), name="one")
        with pytest.raises(LookupError) as caught, plan.provisioned():
            raise error
        assert caught.value is error
        assert calls == ["cleanup"]
        assert isinstance(error.cleanup_error, CleanupError)  # type: ignore[attr-defined]
        assert any("'one'" in note for note in error.__notes__)

    def test_a_body_that_exits_is_cleaned_up_after(self, plan: Plan, calls: Calls) -> None:
        """SystemExit of the body is raised unchanged."""
        plan.add_step(GenericStep(cleanup=calls.hook("cleanup")))
        with pytest.raises(SystemExit) as caught, plan.provisioned():
            sys.exit(3)
        assert caught.value.code == 3
        assert calls == ["cleanup"]

    def test_cleanup_errors_raise_after_a_body_that_succeeded(
        self, plan: Plan, calls: Calls
    ) -> None:
        """CleanupError is raised, because nothing else failed."""
        plan.add_step(GenericStep(cleanup=calls.hook("cleanup", failures=1)))
        with pytest.raises(CleanupError), plan.provisioned():
            calls.note("body")
        assert calls == ["body", "cleanup"]

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_an_interrupt_in_a_cleanup_is_raised_after_a_body_that_raised(
        self, plan: Plan, calls: Calls, kind: type[BaseException]
    ) -> None:
        """The interrupt is raised, and the body's exception is its cause."""
        error = LookupError("of the body")
        plan.add_step(GenericStep(cleanup=calls.hook("lower")))
        plan.add_step(GenericStep(cleanup=calls.hook("upper", failures=1, error=kind)))
        with pytest.raises(kind) as caught, plan.provisioned():
            raise error
        assert caught.value.__cause__ is error
        assert calls == ["upper", "lower"]

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_an_interrupt_in_a_cleanup_is_raised_as_it_is_when_all_have_run(
        self, plan: Plan, calls: Calls, kind: type[BaseException]
    ) -> None:
        """It is not wrapped; its cleanup counts as failed, and the others run."""
        plan.add_step(GenericStep(cleanup=calls.hook("lower")))
        hook = calls.hook("upper", failures=1, error=kind)
        plan.add_step(GenericStep(cleanup=hook), name="upper")
        with pytest.raises(kind):
            plan.execute()
        assert calls == ["upper", "lower"]
        assert plan.results["upper"].cleanup.outcome is CleanupOutcome.FAILED


class TestEvents:
    """The events of cleanup."""

    def test_listeners_hear_how_many_and_why_then_each(self, plan: Plan, calls: Calls) -> None:
        """CleanupBegan counts the steps that have something to undo."""
        events = record_events(plan)
        plan.add_step(GenericStep(cleanup=calls.hook("one")), name="one")
        plan.add_step(GenericStep(), name="two")
        plan.add_step(GenericStep(cleanup=calls.hook("three")), name="three")
        plan.execute()
        (began,) = [event for event in events if isinstance(event, CleanupBegan)]
        assert (began.steps, began.reason) == (2, "success")
        cleaned = [event.result.name for event in events if isinstance(event, StepCleaned)]
        assert cleaned == ["three", "one"]


CTRL_C = """
import signal, sys, threading, time
from pytest_plan import GenericStep, Plan
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.events import CleanupInterrupted
from pytest_plan.engine.plan import listen
log = lambda text: print(text, flush=True)
times = int(sys.argv[2])
heard = threading.Semaphore(0)

class Watched(SystemClock):
    # The coordinator leaves its wait only when no Ctrl-C is on its way.
    waits = False
    sending = threading.Lock()
    def get(self, inbox, timeout):
        try:
            self.waits = True
            return super().get(inbox, timeout)
        finally:
            self.waits = False
            with self.sending: pass

clock = Watched()
def interrupt():
    while True:
        with clock.sending:
            if clock.waits:
                return signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.001)
def exec(ctx):
    if sys.argv[1] == "provisioning":
        try:
            interrupt()
            ctx.sleep(60)
        finally:
            log("exec ended")
def cleanup(ctx):
    if sys.argv[1] == "cleanup":
        for number in range(times):
            if number and "at once" not in sys.argv:
                time.sleep(0.6)
            interrupt()
            if not (number and "at once" in sys.argv):
                heard.acquire()
        if "handler" in sys.argv and "at once" not in sys.argv:
            time.sleep(60)  # it is left at once
    log("upper")
def hear(event):
    if isinstance(event, CleanupInterrupted): heard.release()
def raising(number, frame):
    raise KeyboardInterrupt
if "handler" in sys.argv:
    signal.signal(signal.SIGINT, raising)
plan = Plan(clock=clock)
listen(plan, hear)
plan.add_step(GenericStep(cleanup=lambda: log("lower")))
plan.add_step(GenericStep(cleanup=cleanup))
plan.add_step(GenericStep(exec=exec))
try:
    if sys.argv[3:] == ["body"]:
        with plan.provisioned():
            raise LookupError
    plan.execute()
except KeyboardInterrupt as error:
    left = [step.name for step in plan.results.values() if step.cleanup.outcome == "abandoned"]
    log(f"KeyboardInterrupt, left: {left}")
"""


class TestCtrlC:
    """KeyboardInterrupt in the coordinator of another process."""

    def run(self, when: str, times: int, *more: str) -> list[str]:
        """Run the script, which interrupts itself so many times; return its output."""
        done = subprocess.run(
            [sys.executable, "-c", CTRL_C, when, str(times), *more],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    def test_while_provisioning_the_step_is_stopped_and_everything_cleaned_up(self) -> None:
        """KeyboardInterrupt is raised unchanged after cleanup."""
        assert self.run("provisioning", 1) == [
            "exec ended",
            "upper",
            "lower",
            "KeyboardInterrupt, left: []",
        ]

    def test_the_first_during_cleanup_ends_nothing(self) -> None:
        """Cleanup runs to its end, and KeyboardInterrupt is raised after it."""
        assert self.run("cleanup", 1) == ["upper", "lower", "KeyboardInterrupt, left: []"]

    def test_during_cleanup_it_is_not_lost_when_the_body_raised(self) -> None:
        """KeyboardInterrupt ends the program after cleanup."""
        assert self.run("cleanup", 1, "body") == ["upper", "lower", "KeyboardInterrupt, left: []"]

    def test_the_second_during_cleanup_leaves_nothing(self) -> None:
        """A plan in a script is cleaned up to the end, because no other process would do it."""
        assert self.run("cleanup", 2) == ["upper", "lower", "KeyboardInterrupt, left: []"]

    def test_the_second_exception_during_cleanup_leaves_the_rest(self) -> None:
        """If the program has its own handler, which raises, the result lists what is left."""
        said = self.run("cleanup", 2, "handler")
        assert said == ["KeyboardInterrupt, left: ['step-1', 'step-2']"]

    def test_the_second_exception_may_be_part_of_the_first(self) -> None:
        """An exception that follows the first one within half a second does not count."""
        said = self.run("cleanup", 2, "handler", "at once")
        assert said == ["upper", "lower", "KeyboardInterrupt, left: []"]

    def test_a_cleanup_that_was_left_may_end_without_harm(
        self, clock: FakeClock, make_gate: Callable[[], Gate]
    ) -> None:
        """If it ends while the plan returns, the engine does not fail."""
        plan = Plan(clock=clock)
        gate, ended = make_gate(), threading.Event()

        def let_it_end(event: object) -> None:
            if isinstance(event, CleanupInterrupted) and plan.results["db"].cleanup.left:
                gate.open()
                assert ended.wait(10)
                worker[0].join(0.5)

        worker: list[threading.Thread] = []

        def cleanup() -> None:
            worker.append(threading.current_thread())
            run.interrupt("once", may_leave=True)
            run.interrupt("twice", may_leave=True)
            gate.hold()
            ended.set()

        listen(plan, let_it_end)
        plan.add_step(GenericStep(cleanup=cleanup), name="db")
        run = begin(plan)
        run.provision()
        run.clean_up()
        assert isinstance(run.error(), CleanupError)
        assert plan.results["db"].cleanup.outcome is CleanupOutcome.ABANDONED


class TestGuard:
    """The guard of a journal, which may stop a cleanup because another process performs it."""

    def test_no_further_call_is_made_and_no_process_is_ended(
        self, tmp_path: Path, calls: Calls
    ) -> None:
        """The guard is asked before each call; what it has refused is left, and reported."""
        started: list[Process] = []
        asked: list[str] = []

        def made(ctx: Context) -> None:
            started.append(ctx.start([sys.executable, "-c", "import time; time.sleep(60)"]))
            ctx.defer(calls.note, "second")
            ctx.defer(calls.note, "first")

        def guard(step: str) -> None:
            asked.append(step)
            if len(asked) > 2:
                raise PlanError("another run cleans up")

        steps = {
            "net": GenericStep(exec=made, cleanup=calls.hook("net")),
            "db": GenericStep(cleanup=calls.hook("db")),
        }
        run = journals.provisioned(tmp_path / "journal", steps)
        run.journal.guard = guard
        run.clean_up()
        try:
            assert calls == ["db", "net"]
            assert asked == ["db", "net", "net"]
            assert started[0].status() is None
        finally:
            started[0].end(SystemClock(), KILL, 0.0)
        result = run.result().steps["net"]
        assert result.cleanup.outcome is CleanupOutcome.ABANDONED
        assert [str(error.__cause__) for error in result.cleanup.errors] == [
            "another run cleans up"
        ]
        assert result.cleanup.left[:2] == ("Calls.note", "Calls.note")
        assert "process" in result.cleanup.left[2]
