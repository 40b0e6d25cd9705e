"""The forward flow of one step: attempts, retries, timeouts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tenacity

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.calls.stopping.interrupt import StepInterrupted
from pytest_plan.engine.definition.step import FunctionStep, GenericStep, Step
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.model.events import AttemptFailed
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import (
    PlanCancelledError,
    PlanTimeoutError,
    StepError,
    StepTimeoutError,
)
from pytest_plan.engine.plan import Plan, begin, listen
from pytest_plan.engine.shared.state import State
from pytest_plan.engine.shared.store import LocalStore
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import LONGEST_WAIT, Background, Calls, Gate, execute, record_events


@pytest.fixture
def plan(clock: FakeClock) -> Plan:
    """An empty plan that needs no real time."""
    return Plan(clock=clock)


class TestHooks:
    """One attempt."""

    def test_hooks_run_in_their_order(self, plan: Plan, calls: Calls) -> None:
        """An attempt runs pre_exec, exec and post_exec."""
        step = GenericStep(
            post_exec=calls.hook("post_exec"),
            exec=calls.hook("exec"),
            pre_exec=calls.hook("pre_exec"),
        )
        plan.add_step(step).execute()
        assert calls == ["pre_exec", "exec", "post_exec"]

    @pytest.mark.parametrize(
        ("failing", "ran"),
        [
            ("pre_exec", ["pre_exec"]),
            ("exec", ["pre_exec", "exec"]),
            ("post_exec", ["pre_exec", "exec", "post_exec"]),
        ],
    )
    def test_an_attempt_ends_at_the_hook_that_fails(
        self, plan: Plan, calls: Calls, failing: str, ran: list[str]
    ) -> None:
        """No later hook is called, and the error names hook and attempt."""
        hooks = {
            name: calls.hook(name, failures=int(name == failing))
            for name in ("pre_exec", "exec", "post_exec")
        }
        with pytest.raises(StepError) as caught:
            plan.add_step(GenericStep(**hooks), name="db").execute()
        assert calls == ran
        assert (caught.value.step, caught.value.hook, caught.value.attempt) == ("db", failing, 1)

    def test_the_users_exception_is_the_cause(self, plan: Plan, calls: Calls) -> None:
        """The `__cause__` of StepError is the hook's own exception object, with its traceback."""
        with pytest.raises(StepError, match="ValueError: exec 1") as caught:
            plan.add_step(GenericStep(exec=calls.hook("exec", failures=1))).execute()
        assert type(caught.value.__cause__) is ValueError
        assert caught.value.__cause__.__traceback__ is not None

    def test_a_step_without_hooks_succeeds(self, plan: Plan) -> None:
        """Every hook is optional."""
        result = plan.add_step(GenericStep(), name="empty").execute()
        assert result.steps["empty"].outcome is StepOutcome.SUCCEEDED

    def test_what_exec_returns_is_the_value(self, plan: Plan) -> None:
        """The State has it under the step's name; post_exec and cleanup get it as `value`."""
        seen: list[Any] = []
        step = GenericStep(exec=lambda: 7, post_exec=lambda value: seen.append(value))
        with plan.add_step(step, name="seven").provisioned() as state:
            assert dict(state) == {"seven": 7}
        assert seen == [7]

    def test_none_is_not_stored(self, plan: Plan) -> None:
        """A step that returns None has no key in the State."""
        with plan.add_step(GenericStep(exec=lambda: None), name="none").provisioned() as state:
            assert "none" not in state

    @pytest.mark.parametrize("hook", ["pre_exec", "exec", "post_exec"])
    def test_a_step_that_stores_its_own_value_keeps_it(self, plan: Plan, hook: str) -> None:
        """If `exec` returns None, the value that a hook stored under the step's name is its value.

        Steps that need it get this value, and so does its own `cleanup` as `value`.
        """
        seen: list[Any] = []

        def store(state: State) -> None:
            state["db"] = "postgres://"

        step = GenericStep(**{hook: store}, cleanup=lambda value: seen.append(value))
        plan.add_step(step, name="db")
        plan.add_step(GenericStep(exec=lambda db: seen.append(db)), name="web")
        with plan.provisioned() as state:
            assert dict(state) == {"db": "postgres://"}
        assert seen == ["postgres://", "postgres://"]

    def test_a_returned_value_replaces_the_stored_one(self, plan: Plan) -> None:
        """`exec` has stored a value as well."""

        def exec(state: State) -> int:
            state["db"] = 1
            return 2

        with plan.add_step(GenericStep(exec=exec), name="db").provisioned() as state:
            assert state["db"] == 2

    def test_a_generator_keeps_what_it_stored(self, plan: Plan) -> None:
        """It yields None."""

        def exec(state: State) -> Iterator[None]:
            state["db"] = 1
            yield

        with plan.add_step(FunctionStep(exec=exec), name="db").provisioned() as state:
            assert state["db"] == 1

    def test_an_earlier_value_is_not_the_steps_own(self, plan: Plan) -> None:
        """A value from before the run is removed if the step stores and returns nothing."""
        plan.state["db"] = "of the caller"
        with plan.add_step(GenericStep(exec=lambda: None), name="db").provisioned() as state:
            assert "db" not in state

    def test_the_value_of_a_failed_attempt_is_removed(self, plan: Plan) -> None:
        """The next attempt repeats every hook and returns None."""
        seen: list[Any] = []

        def exec(ctx: Context) -> int | None:
            seen.append(ctx.state.get("db"))
            return 1 if ctx.attempt == 1 else None

        step = FunctionStep(exec=exec, post_exec=lambda ctx: 1 // (ctx.attempt - 1))
        plan.add_step(step, name="db", retries=1, retry_wait=0)
        with plan.provisioned() as state:
            assert "db" not in state
        assert seen == [None, None]

    def test_what_a_remembered_hook_stored_is_kept(self, plan: Plan, calls: Calls) -> None:
        """The next attempt repeats only `exec`, which returns None."""

        def pre_exec(state: State) -> None:
            state["db"] = 1

        step = GenericStep(pre_exec=pre_exec, exec=lambda ctx: (1 // (ctx.attempt - 1)) and None)
        plan.add_step(step, name="db", retries=1, retry_wait=0)
        with plan.provisioned() as state:
            assert state["db"] == 1

    def test_a_remembered_value_is_kept(self, plan: Plan, calls: Calls) -> None:
        """The next attempt repeats only `post_exec`."""
        step = GenericStep(exec=lambda: 7, post_exec=calls.hook("post_exec", failures=1))
        plan.add_step(step, name="db", retries=1, retry_wait=0)
        with plan.provisioned() as state:
            assert state["db"] == 7

    def test_a_failed_step_has_no_value(self, plan: Plan, calls: Calls) -> None:
        """The value of exec is removed if post_exec fails in the last attempt."""
        plan = Plan(continue_on_error=True)
        step = GenericStep(exec=lambda: 7, post_exec=calls.hook("post_exec", failures=1))
        with plan.add_step(step, name="seven").provisioned() as state:
            assert dict(state) == {}


class TestRetries:
    """How many attempts a step gets."""

    def test_at_most_one_more_attempt_than_retries(self, plan: Plan, calls: Calls) -> None:
        """`retries=2` allows three attempts."""
        plan.add_step(GenericStep(exec=calls.hook("exec", failures=9)), retries=2, retry_wait=0)
        with pytest.raises(StepError) as caught:
            plan.execute()
        assert calls == ["exec"] * 3
        assert caught.value.attempt == 3

    def test_success_is_never_repeated(self, plan: Plan, calls: Calls) -> None:
        """The first attempt that succeeds is the last."""
        plan.add_step(GenericStep(exec=calls.hook("exec", failures=1)), retries=5, retry_wait=0)
        plan.execute()
        assert calls == ["exec", "exec"]

    def test_the_attempt_is_counted_in_the_context(self, plan: Plan) -> None:
        """`ctx.attempt` counts from 1."""
        seen: list[int] = []

        def exec(ctx: Context) -> None:
            seen.append(ctx.attempt)
            if ctx.attempt < 3:
                raise ValueError

        plan.add_step(GenericStep(exec=exec), retries=2, retry_wait=0).execute()
        assert seen == [1, 2, 3]

    def test_generic_step_repeats_only_what_has_not_succeeded(
        self, plan: Plan, calls: Calls
    ) -> None:
        """A GenericStep continues with the hook that failed."""
        step = GenericStep(
            pre_exec=calls.hook("pre_exec"),
            exec=calls.hook("exec"),
            post_exec=calls.hook("post_exec", failures=2),
        )
        plan.add_step(step, retries=2, retry_wait=0).execute()
        assert calls == ["pre_exec", "exec", "post_exec", "post_exec", "post_exec"]

    def test_other_steps_repeat_every_hook(self, plan: Plan, calls: Calls) -> None:
        """The second attempt of a Step begins with pre_exec."""
        fail = calls.hook("post_exec", failures=1)

        class Web(Step):
            def pre_exec(self) -> None:
                calls.note("pre_exec")

            def exec(self) -> None:
                calls.note("exec")

            def post_exec(self) -> None:
                fail()

        plan.add_step(Web(), retries=1, retry_wait=0).execute()
        assert calls == ["pre_exec", "exec", "post_exec"] * 2

    def test_a_later_attempt_that_returns_none_has_no_value(self, plan: Plan, calls: Calls) -> None:
        """It does not get the value of an earlier attempt."""
        values = iter([7, None])
        fail = calls.hook("post_exec", failures=1)
        step = FunctionStep(exec=lambda: next(values), post_exec=lambda: fail())
        plan.add_step(step, name="once", retries=1, retry_wait=0)
        with plan.provisioned() as state:
            assert "once" not in state

    def test_retry_on_sees_the_users_exception(self, plan: Plan, calls: Calls) -> None:
        """An exception of another class ends the step."""
        hook = calls.hook("exec", failures=9, error=KeyError)
        plan.add_step(GenericStep(exec=hook), retries=3, retry_on=OSError, retry_wait=0)
        with pytest.raises(StepError):
            plan.execute()
        assert calls == ["exec"]

    def test_retry_on_may_name_several(self, plan: Plan, calls: Calls) -> None:
        """An exception of any class in the tuple is retried."""
        hook = calls.hook("exec", failures=1, error=KeyError)
        plan.add_step(GenericStep(exec=hook), retries=1, retry_on=(OSError, KeyError), retry_wait=0)
        plan.execute()
        assert calls == ["exec", "exec"]

    def test_a_base_exception_is_never_retried(self, plan: Plan, calls: Calls) -> None:
        """It is not retried even if retry_on lists it."""

        class Exit(BaseException):
            pass

        hook = calls.hook("exec", failures=9, error=Exit)
        plan.add_step(GenericStep(exec=hook), retries=3, retry_on=BaseException, retry_wait=0)
        with pytest.raises(StepError) as caught:
            plan.execute()
        assert calls == ["exec"]
        assert isinstance(caught.value.__cause__, Exit)

    def test_a_timeout_is_retried_by_default(self, plan: Plan, calls: Calls) -> None:
        """StepTimeoutError is an Exception, which is the default of retry_on."""

        def exec(ctx: Context) -> None:
            calls.note(f"attempt {ctx.attempt}")
            if ctx.attempt == 1:
                ctx.sleep(60)

        plan.add_step(GenericStep(exec=exec), retries=1, retry_wait=0, timeout=5).execute()
        assert calls == ["attempt 1", "attempt 2"]

    def test_every_attempt_is_in_the_result(self, plan: Plan, calls: Calls) -> None:
        """Each attempt has its number, hook, times and error."""
        step = GenericStep(exec=calls.hook("exec", failures=1), post_exec=calls.hook("post_exec"))
        result = plan.add_step(step, name="db", retries=1, retry_wait=4).execute()
        first, second = result.steps["db"].attempts
        assert (first.number, first.hook, str(first.error)) == (1, "exec", "exec 1")
        assert (second.number, second.hook, second.error) == (2, "post_exec", None)
        assert second.started - first.started == pytest.approx(4, abs=0.01)

    def test_listeners_hear_of_a_failed_attempt(self, plan: Plan, calls: Calls) -> None:
        """AttemptFailed has the attempt, the number allowed, the error and the wait."""
        events = record_events(plan)
        plan.add_step(GenericStep(exec=calls.hook("exec", failures=1)), name="db", retries=3,
                      retry_wait=2)  # fmt: skip
        plan.execute()
        (failed,) = [event for event in events if isinstance(event, AttemptFailed)]
        assert (failed.step, failed.attempt, failed.attempts, failed.wait) == ("db", 1, 4, 2.0)
        assert str(failed.error) == "exec 1"


class TestRetryWait:
    """The wait between two attempts."""

    def starts(self, plan: Plan, calls: Calls, clock: FakeClock, **options: Any) -> list[float]:
        """Return the start times of four attempts, relative to the first."""
        times: list[float] = []
        fail = calls.hook("exec", failures=3)

        def exec() -> None:
            times.append(clock.now())
            fail()

        plan.add_step(GenericStep(exec=exec), retries=3, **options).execute()
        return [time - times[0] for time in times]

    def test_a_duration_is_the_same_each_time(
        self, plan: Plan, calls: Calls, clock: FakeClock
    ) -> None:
        """`retry_wait="2s"` waits two seconds before each further attempt."""
        starts = self.starts(plan, calls, clock, retry_wait="2s")
        assert starts == pytest.approx([0, 2, 4, 6], abs=0.01)

    def test_a_tenacity_wait_is_honoured(self, plan: Plan, calls: Calls, clock: FakeClock) -> None:
        """It gets the number of the attempt."""
        wait = tenacity.wait_incrementing(start=1, increment=2)
        starts = self.starts(plan, calls, clock, retry_wait=wait)
        assert starts == pytest.approx([0, 1, 4, 9], abs=0.01)

    def test_the_default_grows_from_half_a_second(
        self, plan: Plan, calls: Calls, clock: FakeClock
    ) -> None:
        """The default is exponential, 0.5, 1, 2 s and so on, plus up to a second of jitter."""
        starts = self.starts(plan, calls, clock)
        waits = [after - before for before, after in itertools.pairwise(starts)]
        for wait, least in zip(waits, [0.5, 1, 2], strict=True):
            assert least - 0.01 <= wait <= least + 1.01

    @pytest.mark.parametrize("junk", [-1, "soon", float("nan"), float("inf"), None])
    def test_a_wait_that_returns_junk_fails_the_step(
        self, plan: Plan, calls: Calls, junk: object
    ) -> None:
        """The error shows what retry_wait returned, and no attempt follows."""
        plan.add_step(
            GenericStep(exec=calls.hook("exec", failures=9)),
            retries=3,
            retry_wait=lambda state: junk,
        )
        with pytest.raises(StepError, match=r"retry_wait returned"):
            plan.execute()
        assert calls == ["exec"]

    def test_a_wait_that_raises_fails_the_step(self, plan: Plan, calls: Calls) -> None:
        """The error of the failed attempt is the cause."""

        def wait(state: object) -> float:
            raise RuntimeError("no idea")

        hook = calls.hook("exec", failures=9)
        plan.add_step(GenericStep(exec=hook), retries=3, retry_wait=wait)
        with pytest.raises(StepError, match="no idea") as caught:
            plan.execute()
        assert calls == ["exec"]
        cause = caught.value.__cause__
        assert cause is not None
        assert str(cause.__cause__) == "exec 1"

    def test_cancel_ends_the_wait(self, plan: Plan, calls: Calls, clock: FakeClock) -> None:
        """No time passes and no attempt follows."""

        def cancel_once_waiting(event: object) -> None:
            if isinstance(event, AttemptFailed):
                plan.cancel("enough")

        listen(plan, cancel_once_waiting)
        begun = clock.now()
        step = GenericStep(exec=calls.hook("exec", failures=9))
        result, error = execute(plan.add_step(step, name="db", retries=3, retry_wait="20s"))
        assert isinstance(error, PlanCancelledError)
        assert result.steps["db"].outcome is StepOutcome.CANCELLED
        assert calls == ["exec"]
        assert clock.now() - begun < 1

    def test_the_limit_ends_the_wait(self, calls: Calls, clock: FakeClock) -> None:
        """The plan ends at its limit, not after the wait."""
        plan = Plan(limit=5, clock=clock)
        begun = clock.now()
        step = GenericStep(exec=calls.hook("exec", failures=9))
        result, error = execute(plan.add_step(step, name="db", retries=3, retry_wait="20s"))
        assert isinstance(error, PlanTimeoutError)
        assert result.steps["db"].outcome is StepOutcome.TIMED_OUT
        assert clock.now() - begun == pytest.approx(5, abs=0.01)

    def test_a_failure_elsewhere_does_not_end_the_wait(self, plan: Plan, calls: Calls) -> None:
        """A step between two attempts counts as running, and running steps may finish."""
        plan.add_step(GenericStep(exec=calls.hook("exec", failures=1)), name="slow", retries=1,
                      retry_wait=5)  # fmt: skip
        plan.add_step(GenericStep(exec=calls.hook("bad", failures=1)), name="bad", needs=())
        result, _ = execute(plan)
        assert result.steps["slow"].outcome is StepOutcome.SUCCEEDED


class TestUndoBetweenAttempts:
    """The undo of an attempt before the next one."""

    def test_deferred_calls_run_last_first_before_the_next_attempt(
        self, plan: Plan, calls: Calls
    ) -> None:
        """A FunctionStep repeats every hook, so everything is undone."""

        def exec(ctx: Context) -> None:
            calls.note(f"exec {ctx.attempt}")
            ctx.defer(calls.note, f"undo a{ctx.attempt}")
            ctx.defer(calls.note, f"undo b{ctx.attempt}")
            if ctx.attempt == 1:
                raise ValueError

        plan.add_step(FunctionStep(exec=exec), retries=1, retry_wait=0).execute()
        assert calls == ["exec 1", "undo b1", "undo a1", "exec 2", "undo b2", "undo a2"]

    def test_what_a_remembered_hook_made_stays(self, plan: Plan, calls: Calls) -> None:
        """Only hooks that run again are undone."""

        def pre_exec(ctx: Context) -> None:
            calls.note("pre_exec")
            ctx.defer(calls.note, "undo pre_exec")

        def exec(ctx: Context) -> None:
            calls.note("exec")
            ctx.defer(calls.note, "undo exec")
            if ctx.attempt == 1:
                raise ValueError

        plan.add_step(GenericStep(pre_exec=pre_exec, exec=exec), retries=1, retry_wait=0).execute()
        assert calls == ["pre_exec", "exec", "undo exec", "exec", "undo exec", "undo pre_exec"]

    def test_the_tail_of_a_generator_runs_before_the_next_attempt(
        self, plan: Plan, calls: Calls
    ) -> None:
        """If post_exec fails after the `yield`, the tail runs."""

        def exec() -> Any:
            calls.note("make")
            yield
            calls.note("unmake")

        fail = calls.hook("post_exec", failures=1)
        step = FunctionStep(exec=exec, post_exec=lambda: fail())
        plan.add_step(step, retries=1, retry_wait=0).execute()
        assert calls == ["make", "post_exec", "unmake", "make", "post_exec", "unmake"]

    def test_an_undo_that_fails_ends_the_retries(self, plan: Plan, calls: Calls) -> None:
        """The step fails with the error of its attempt, and a note has the error of the undo."""

        def exec(ctx: Context) -> None:
            calls.note("exec")
            ctx.defer(calls.note, "undo the rest")
            ctx.defer(calls.hook("undo", failures=1))
            raise ValueError("first")

        plan.add_step(FunctionStep(exec=exec), retries=3, retry_wait=0)
        with pytest.raises(StepError) as caught:
            plan.execute()
        assert calls == ["exec", "undo", "undo the rest"]
        cause = caught.value.__cause__
        assert str(cause) == "first"
        assert cause is not None
        assert any("undo 1" in note for note in cause.__notes__)

    def test_an_undo_over_its_budget_loses_nothing(
        self, plan: Plan, calls: Calls, gate: Gate
    ) -> None:
        """An undo that did not run in time runs at cleanup."""

        def exec(ctx: Context) -> None:
            ctx.defer(calls.note, "undo")
            ctx.defer(gate.hang)
            raise ValueError

        plan.add_step(
            FunctionStep(exec=exec), name="db", retries=3, retry_wait=0, cleanup_timeout=5
        )
        result, error = execute(plan)
        assert isinstance(error, StepError)
        assert calls == ["undo"]
        assert result.steps["db"].cleanup.left == ()

    def test_tmp_path_is_empty_when_every_hook_is_repeated(self, plan: Plan) -> None:
        """The files of the failed attempt are removed."""
        seen: list[list[Path]] = []

        def exec(ctx: Context) -> None:
            seen.append(list(ctx.tmp_path.iterdir()))
            (ctx.tmp_path / "file").touch()
            if ctx.attempt == 1:
                raise ValueError

        plan.add_step(FunctionStep(exec=exec), retries=1, retry_wait=0).execute()
        assert seen == [[], []]

    def test_tmp_path_is_kept_when_a_hook_is_remembered(self, plan: Plan) -> None:
        """The files of the hook that succeeded stay."""

        def pre_exec(ctx: Context) -> None:
            (ctx.tmp_path / "kept").touch()

        def exec(ctx: Context) -> None:
            if ctx.attempt == 1:
                raise ValueError
            assert (ctx.tmp_path / "kept").exists()

        plan.add_step(GenericStep(pre_exec=pre_exec, exec=exec), retries=1, retry_wait=0).execute()


class TestTimeout:
    """A step that must stop goes through the stages of the escalation."""

    def test_ctx_sleep_ends_at_the_timeout(self, plan: Plan, clock: FakeClock) -> None:
        """The first stage wakes `ctx`; the error names the timeout, the hook and the attempt."""
        begun = clock.now()
        plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(60)), name="db", timeout=5)
        with pytest.raises(StepTimeoutError, match=r"'db'.* 5\.00s .*exec, attempt 1") as caught:
            plan.execute()
        assert isinstance(caught.value, TimeoutError)
        assert clock.now() - begun == pytest.approx(5, abs=0.01)
        assert caught.value.result is not None
        assert caught.value.result.steps["db"].outcome is StepOutcome.TIMED_OUT

    def test_the_timeout_is_for_the_attempt_not_the_hook(
        self, plan: Plan, clock: FakeClock
    ) -> None:
        """Two hooks of three seconds each exceed a timeout of five seconds."""
        begun = clock.now()
        step = GenericStep(exec=lambda ctx: ctx.sleep(3), post_exec=lambda ctx: ctx.sleep(3))
        with pytest.raises(StepTimeoutError, match="post_exec"):
            plan.add_step(step, timeout=5).execute()
        assert clock.now() - begun == pytest.approx(5, abs=0.01)

    def test_each_attempt_has_the_whole_timeout(self, plan: Plan, clock: FakeClock) -> None:
        """Earlier attempts and waits do not count."""
        begun = clock.now()
        step = GenericStep(exec=lambda ctx: ctx.sleep(60))
        with pytest.raises(StepTimeoutError):
            plan.add_step(step, timeout=5, retries=1, retry_wait=7).execute()
        assert clock.now() - begun == pytest.approx(5 + 7 + 5, abs=0.05)

    def test_wait_until_ends_at_the_timeout_with_the_last_error(self, plan: Plan) -> None:
        """The last exception of `fn` is the cause of the error."""

        def never() -> bool:
            raise ConnectionError("refused")

        step = GenericStep(exec=lambda ctx: ctx.wait_until(never))
        with pytest.raises(StepTimeoutError) as caught:
            plan.add_step(step, timeout=5).execute()
        assert str(caught.value.__cause__) == "refused"

    def test_waiting_for_state_ends_at_the_timeout(self, plan: Plan) -> None:
        """`state.wait_for` is woken like `ctx.sleep`, and the step is not abandoned."""
        plan.add_step(GenericStep(exec=lambda state: state.wait_for("never")), name="db", timeout=5)
        result, error = execute(plan)
        assert isinstance(error, StepTimeoutError)
        assert error.__cause__ is None
        assert result.steps["db"].stack == ""

    def test_waiting_for_a_lock_ends_at_the_timeout(self, plan: Plan) -> None:
        """`state.lock` is woken like `ctx.sleep`, and the step is not abandoned."""

        def hold(ctx: Context, state: State) -> None:
            with state.lock("one"):
                state["held"] = True
                ctx.sleep(30)

        def want(state: State) -> None:
            state.wait_for("held")
            with state.lock("one"):
                raise AssertionError("two at once")

        plan = plan.add_step(GenericStep(exec=hold), name="holder")
        plan.add_step(GenericStep(exec=want), name="waiter", needs=(), timeout=5)
        result, error = execute(plan)
        assert isinstance(error, StepTimeoutError)
        assert error.__cause__ is None
        assert result.steps["waiter"].stack == ""

    def test_a_pure_python_loop_is_interrupted(self, plan: Plan, clock: FakeClock) -> None:
        """The third stage injects an exception into the thread; `finally` clauses run."""
        unwound: list[bool] = []

        def exec() -> None:
            try:
                clock.spin()
            finally:
                unwound.append(True)

        plan.add_step(GenericStep(exec=exec), name="db", timeout=5)
        result, error = execute(plan)
        assert isinstance(error, StepTimeoutError)
        assert unwound == [True]
        assert result.steps["db"].stack == ""

    def test_a_step_that_hangs_in_c_is_abandoned_with_its_stack(
        self, plan: Plan, gate: Gate, clock: FakeClock
    ) -> None:
        """The last stage abandons the thread, three seconds after the timeout."""

        def hang_here() -> None:
            gate.hang()

        begun = clock.now()
        plan.add_step(GenericStep(exec=hang_here), name="db", timeout=5)
        result, error = execute(plan)
        assert isinstance(error, StepTimeoutError)
        assert any("its thread was abandoned" in note for note in error.__notes__)
        assert "hang_here" in result.steps["db"].stack
        assert result.steps["db"].outcome is StepOutcome.TIMED_OUT
        assert clock.now() - begun == pytest.approx(5 + 3, abs=0.05)

    def test_an_abandoned_attempt_is_never_retried(
        self, plan: Plan, gate: Gate, calls: Calls
    ) -> None:
        """The thread may still be working."""

        def exec() -> None:
            calls.note("exec")
            gate.hang()

        plan.add_step(GenericStep(exec=exec), timeout=5, retries=3, retry_wait=0)
        with pytest.raises(StepTimeoutError):
            plan.execute()
        assert calls == ["exec"]

    def test_cleanup_runs_for_an_abandoned_step(self, plan: Plan, gate: Gate, calls: Calls) -> None:
        """Its deferred calls run although its thread still hangs."""

        def exec(ctx: Context) -> None:
            ctx.defer(lambda: calls.note(f"undo, let go: {not gate.is_reached()}"))
            gate.hang()

        plan.add_step(GenericStep(exec=exec), timeout=5)
        with pytest.raises(StepTimeoutError):
            plan.execute()
        assert calls == ["undo, let go: False"]

    def test_a_step_whose_thread_comes_back_is_cleaned_up(
        self, clock: FakeClock, gate: Gate, calls: Calls
    ) -> None:
        """Its thread becomes idle and may perform the cleanup, which is not refused there."""
        plan = Plan(clock=clock, continue_on_error=True, jobs=1)
        threads: list[threading.Thread] = []

        def undo(ctx: Context) -> None:
            ctx.state["undone"] = threading.current_thread() in threads
            calls.note(f"undone on the same thread: {ctx.state['undone']}")

        def exec(ctx: Context) -> None:
            ctx.defer(undo, ctx)
            threads.append(threading.current_thread())
            gate.hang()

        with plan.add_step(GenericStep(exec=exec), timeout=5).provisioned():
            gate.open()
            while threads[0].name != "plan-idle":
                time.sleep(0.001)
        assert calls == ["undone on the same thread: True"]

    def test_two_undos_of_one_hook_that_hang_are_both_refused_later(
        self, plan: Plan, make_gate: Callable[[], Gate]
    ) -> None:
        """They share a `ctx`, and each of their threads is refused until its call has ended."""
        gates = [make_gate(), make_gate()]
        errors: list[BaseException] = []
        ended = threading.Barrier(3, timeout=10)

        def undo(ctx: Context, gate: Gate) -> None:
            with contextlib.suppress(StepInterrupted):
                gate.hang()
            try:
                ctx.state["late"] = 1
            except StateError as error:
                errors.append(error)
            ended.wait()

        def exec(ctx: Context) -> None:
            for gate in gates:
                ctx.defer(undo, ctx, gate)

        _, error = execute(plan.add_step(GenericStep(exec=exec), cleanup_timeout=5))
        assert error is not None
        for gate in gates:
            gate.open()
        ended.wait()
        assert len(errors) == 2

    def test_late_writes_of_an_abandoned_step_are_refused(
        self, plan: Plan, gate: Gate, make_gate: Callable[[], Gate]
    ) -> None:
        """A write to the State raises and changes nothing."""
        errors: list[BaseException] = []
        done = make_gate()

        def exec(ctx: Context, state: State) -> None:
            with contextlib.suppress(StepInterrupted):
                gate.hang()
            for write in (
                lambda: state.update(late=1),
                lambda: ctx.setenv("PLAN_LATE", "1"),
                lambda: ctx.start(["true"]),
                lambda: ctx.run(["true"]),
                lambda: ctx.log("late"),
                ctx.check,
            ):
                try:
                    write()
                except StateError as error:
                    errors.append(error)
            done.hold()

        plan.state["early"] = 1
        plan.add_step(GenericStep(exec=exec), name="db", timeout=5)
        with pytest.raises(StepTimeoutError):
            plan.execute()
        gate.open()
        done.wait_until_reached()
        assert len(errors) == 6
        assert "'db' was abandoned" in str(errors[0])
        assert dict(plan.state) == {"early": 1}

    def test_nothing_waits_on_an_abandoned_thread(
        self, plan: Plan, clock: FakeClock, gate: Gate, make_gate: Callable[[], Gate]
    ) -> None:
        """Every wait ends at once with StateError, also while a deferred call uses the same ctx."""
        waited: list[str] = []
        done = make_gate()

        def exec(ctx: Context, state: State) -> None:
            ctx.defer(undo, ctx)
            with contextlib.suppress(StepInterrupted):
                gate.hang()
            for wait in (
                lambda: ctx.sleep(3600),
                lambda: ctx.wait_until(lambda: False),
                lambda: state.wait_for("never"),
                lambda: state.lock("held").__enter__(),
            ):
                try:
                    wait()
                except StateError as error:
                    waited.append(str(error))
            waited.append(f"cancelled: {ctx.cancelled}")
            done.hold()

        def undo(ctx: Context) -> None:
            assert not ctx.cancelled
            with ctx.state.lock("held"):
                gate.open()
                done.wait_until_reached()
                done.open()
            ctx.sleep(1)

        begun = clock.now()
        plan.add_step(GenericStep(exec=exec), name="db", timeout=5)
        with pytest.raises(StepTimeoutError):
            plan.execute()
        assert len(waited) == 5
        assert all("'db' was abandoned" in text for text in waited[:4])
        assert waited[4] == "cancelled: True"
        assert clock.now() - begun == pytest.approx(5 + 3 + 1, abs=0.3)

    def test_an_abandoned_step_makes_no_folder_after_the_run(
        self, plan: Plan, gate: Gate, make_gate: Callable[[], Gate]
    ) -> None:
        """A folder that its `ctx` created late would never be removed."""
        done = make_gate()

        def exec(ctx: Context) -> None:
            ctx.log("before")
            with contextlib.suppress(StepInterrupted):
                gate.hang()
            for use in (lambda: ctx.tmp_path, lambda: ctx.artifacts, lambda: ctx.log("late")):
                with contextlib.suppress(Exception, StepInterrupted):
                    use()
            done.hold()

        plan.add_step(GenericStep(exec=exec), timeout=5)
        with pytest.raises(StepTimeoutError):
            plan.execute()
        gate.open()
        done.wait_until_reached()  # and nothing_left_behind looks for the folder

    def test_a_lock_of_an_abandoned_step_is_free(
        self, clock: FakeClock, gate: Gate, make_gate: Callable[[], Gate], calls: Calls
    ) -> None:
        """Its own cleanup can acquire the lock; leaving the `with` late does not release it."""
        left = make_gate()

        def exec(ctx: Context, state: State) -> None:
            with contextlib.suppress(StepInterrupted), state.lock("one"):
                gate.hang()
            try:
                with state.lock("other"):
                    calls.note("never")
            except StateError:
                calls.note("refused")
            finally:
                left.hold()

        def cleanup(state: State) -> None:
            with state.lock("one", timeout=5):
                gate.open()
                left.wait_until_reached()
                thief = Background(lambda: State(store).lock("one", timeout=0).__enter__())
                with pytest.raises(TimeoutError):
                    thief.result()
            calls.note("cleaned")

        store = LocalStore(clock)
        plan = Plan(clock=clock, store=store)
        step = GenericStep(exec=exec, cleanup=cleanup)
        plan.add_step(step, timeout=5, cleanup_when="attempted")
        with pytest.raises(StepTimeoutError):
            plan.execute()
        assert calls == ["refused", "cleaned"]

    def test_what_an_abandoned_step_returns_late_is_no_value(
        self, clock: FakeClock, gate: Gate
    ) -> None:
        """The late value is not stored and has no effect."""

        def exec() -> int:
            with contextlib.suppress(StepInterrupted):
                gate.hang()
            return 7

        plan = Plan(clock=clock, continue_on_error=True)
        plan.add_step(GenericStep(exec=exec), name="stuck", timeout=5)
        plan.add_step(GenericStep(exec=lambda: gate.open()), name="release")
        plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(1)), name="after")
        with plan.provisioned() as state:
            assert "stuck" not in state
            assert plan.results["stuck"].outcome is StepOutcome.TIMED_OUT
            assert plan.results["after"].outcome is StepOutcome.SUCCEEDED

    def test_what_an_abandoned_step_defers_is_undone_at_once(
        self, plan: Plan, gate: Gate, make_gate: Callable[[], Gate], calls: Calls
    ) -> None:
        """`ctx.defer` calls the function and raises StateError."""
        done = make_gate()

        def exec(ctx: Context) -> None:
            with contextlib.suppress(StepInterrupted):
                gate.hang()
            try:
                ctx.defer(calls.note, "undone")
            except StateError:
                calls.note("refused")
            finally:
                done.hold()

        plan.add_step(GenericStep(exec=exec), timeout=5)
        with pytest.raises(StepTimeoutError):
            plan.execute()
        gate.open()
        done.wait_until_reached()
        assert calls == ["undone", "refused"]

    def test_what_an_abandoned_step_defers_while_unwinding_is_undone_at_once(
        self, plan: Plan, gate: Gate, make_gate: Callable[[], Gate], calls: Calls
    ) -> None:
        """This holds in a `finally` clause that StepInterrupted passes through."""
        done = make_gate()

        def exec(ctx: Context) -> None:
            try:
                gate.hang()
            finally:
                try:
                    ctx.defer(calls.note, "undone")
                finally:
                    done.hold()

        plan.add_step(GenericStep(exec=exec), timeout=5)
        with pytest.raises(StepTimeoutError):
            plan.execute()
        gate.open()
        done.wait_until_reached()
        assert calls == ["undone"]

    def test_a_step_that_swallows_the_stop_still_timed_out(self, plan: Plan) -> None:
        """A hook that returns after its timeout has failed."""

        def exec(ctx: Context) -> str:
            try:
                ctx.sleep(60)
            except StepTimeoutError:
                return "nothing happened"
            raise AssertionError

        plan.add_step(GenericStep(exec=exec), name="db", timeout=5)
        result, error = execute(plan)
        assert isinstance(error, StepTimeoutError)
        assert result.steps["db"].outcome is StepOutcome.TIMED_OUT
        assert "db" not in plan.state

    def test_an_error_while_stopping_is_the_cause_of_the_timeout(self, plan: Plan) -> None:
        """An error in a `finally` clause does not hide the timeout."""

        def exec(ctx: Context) -> None:
            try:
                ctx.sleep(60)
            finally:
                raise OSError("while stopping")

        with pytest.raises(StepTimeoutError) as caught:
            plan.add_step(GenericStep(exec=exec), timeout=5).execute()
        assert str(caught.value.__cause__) == "while stopping"

    def test_a_coroutine_is_cancelled_the_asyncio_way(self, plan: Plan, calls: Calls) -> None:
        """An `async def` hook sees CancelledError in its task at its `await`."""

        async def exec() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                calls.note("cancelled")
                raise

        with pytest.raises(StepTimeoutError):
            plan.add_step(GenericStep(exec=exec), timeout=5).execute()
        assert calls == ["cancelled"]

    def test_a_program_that_ignores_sigterm_is_killed(self) -> None:
        """The process tree of `ctx.run` gets SIGTERM, and SIGKILL a second later."""
        plan = Plan()
        others = psutil.Process().children()  # servers of the session, which other tests use
        script = "trap '' TERM; while :; do sleep 0.05; done"
        plan.add_step(GenericStep(exec=lambda ctx: ctx.run(["sh", "-c", script])), name="db",
                      timeout=0.2)  # fmt: skip
        begun = time.monotonic()
        _, error = execute(plan)
        assert isinstance(error, StepTimeoutError)
        assert time.monotonic() - begun < LONGEST_WAIT
        assert psutil.Process().children() == others

    def test_no_timeout_is_the_default(self, plan: Plan) -> None:
        """A step without `timeout` may take any time."""
        plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep(600)), name="db")
        result = plan.execute()
        assert result.steps["db"].seconds == pytest.approx(600, abs=0.1)


class TestOtherEndings:
    """Skips, and exceptions that end the plan."""

    class Skip(Exception):  # noqa: N818 - a stand-in for pytest's
        """The exception by which a step is skipped."""

    def test_skip_on_skips_the_step_and_what_needs_it(self, plan: Plan, calls: Calls) -> None:
        """The skip has a reason, is no failure and is not retried."""
        hook = calls.hook("exec", failures=9, error=self.Skip)
        plan.add_step(GenericStep(exec=hook), name="db", retries=3, retry_wait=0)
        plan.add_step(GenericStep(exec=calls.hook("never")), name="web", needs="db")
        plan.add_step(GenericStep(exec=calls.hook("other")), name="other")
        run = begin(plan, skip_on=(self.Skip,))
        run.provision()
        run.clean_up()
        result = run.result()
        assert calls == ["exec", "other"]
        assert result.steps["db"].outcome is StepOutcome.SKIPPED
        assert result.steps["db"].reason == "exec 1"
        assert result.steps["web"].outcome is StepOutcome.SKIPPED
        assert result.steps["web"].reason == "needs 'db': exec 1"
        assert result.outcome is StepOutcome.SUCCEEDED
        assert run.error() is None

    def test_the_skip_option_keeps_a_step_from_running(self, plan: Plan, calls: Calls) -> None:
        """The text of the option is the reason."""
        plan.add_step(GenericStep(exec=calls.hook("exec")), name="db", skip="no database here")
        result = plan.execute()
        assert calls == []
        assert result.steps["db"].outcome is StepOutcome.SKIPPED
        assert result.steps["db"].reason == "no database here"

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_interrupts_and_exits_are_raised_as_they_are_after_cleanup(
        self, plan: Plan, calls: Calls, kind: type[BaseException]
    ) -> None:
        """The same exception object is raised; it is neither wrapped nor retried."""
        error = kind(3)

        def exec(ctx: Context) -> None:
            calls.note("exec")
            ctx.defer(calls.note, "undo")
            raise error

        plan.add_step(GenericStep(cleanup=calls.hook("cleanup")))
        plan.add_step(GenericStep(exec=exec), name="db", retries=3, retry_wait=0)
        plan.add_step(GenericStep(exec=calls.hook("never")))
        with pytest.raises(kind) as caught:
            plan.execute()
        assert caught.value is error
        assert calls == ["exec", "undo", "cleanup"]
        assert plan.results["db"].outcome is StepOutcome.CANCELLED
