"""Each difference in `docs/explanation/differences-from-gsd.md` has one test."""

import inspect
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import pytest_plan
from pytest_plan import (
    CleanupError,
    Context,
    GenericStep,
    Plan,
    PlanCancelledError,
    PlanTimeoutError,
    State,
    Step,
    StepError,
    StepOutcome,
)
from pytest_plan.engine.model.events import Event, StepStarted
from pytest_plan.engine.plan import listen
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Calls

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "differences-from-gsd.md"

GO_NAMES = """
    NewPlan PlanOpt PlanOptContinueOnError PlanOptLimitDuration
    Plan Plan.AddStep Plan.AddPause Plan.Execute Plan.State
    State State.Get State.Load State.Store State.LoadOrStore State.LoadAndDelete State.Delete
    State.Swap State.CompareAndSwap State.CompareAndDelete State.Range State.Clear
    Step Step.PreExec Step.Exec Step.PostExec Step.Cleanup Step.Retries
    GenericStep GenericStep.PreExecFunc GenericStep.ExecFunc GenericStep.PostExecFunc
    GenericStep.CleanupFunc GenericStep.WithRetries
    ErrCancelled ErrTimeout
""".split()


class TestTable:
    """The table that opens the page."""

    ROWS = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)

    def test_every_go_name_has_one_row(self) -> None:
        """Every public name of gsd is in the table exactly once."""
        assert [go for go, _ in self.ROWS] == GO_NAMES

    @pytest.mark.parametrize("ours", sorted({ours for _, ours in ROWS}))
    def test_our_names_exist(self, ours: str) -> None:
        """Each of our names is a public class, or a member, an option or an item access of one."""
        match = re.fullmatch(r"(\w+)(?:\.(\w+)|\((\w+)=\)|(\[key\]))?", ours)
        assert match
        owner, member, option, item = match.groups()
        assert owner in pytest_plan.__all__
        cls = getattr(pytest_plan, owner)
        if member:
            assert hasattr(cls, member)
        if option:
            assert option in inspect.signature(cls).parameters
        if item:
            assert hasattr(cls, "__getitem__")
            assert hasattr(cls, "__setitem__")

    def test_every_test_that_the_page_names_is_here(self) -> None:
        """The page names tests of this file, and names every test of a difference."""
        named = re.findall(r"`(test_\w+)`", PAGE.read_text())
        here = [name for name in globals() if name.startswith("test_")]
        assert sorted(named) == sorted(here)


@pytest.mark.parametrize("continue_on_error", [False, True])
def test_a_failed_step_is_retried_without_continue_on_error(
    calls: Calls, *, continue_on_error: bool
) -> None:
    """A step that fails twice and may be retried twice succeeds, in either mode."""
    plan = Plan(continue_on_error=continue_on_error)
    step = GenericStep(exec=calls.hook("exec", failures=2)).with_retries(2)
    result = plan.add_step(step, name="db", retry_wait=0).execute()
    assert calls == ["exec", "exec", "exec"]
    assert result.steps["db"].outcome is StepOutcome.SUCCEEDED


@pytest.mark.parametrize("continue_on_error", [False, True])
def test_no_attempt_follows_a_success(calls: Calls, *, continue_on_error: bool) -> None:
    """A step that succeeds at once runs once, whatever its retries."""
    plan = Plan(continue_on_error=continue_on_error)
    plan.add_step(GenericStep(exec=calls.hook("exec")).with_retries(3)).execute()
    assert calls == ["exec"]


def test_the_error_of_every_attempt_is_kept(calls: Calls) -> None:
    """The result of a step holds one error per failed attempt."""
    plan = Plan()
    plan.add_step(
        GenericStep(exec=calls.hook("exec", failures=2)), name="db", retries=1, retry_wait=0
    )
    with pytest.raises(StepError) as caught:
        plan.execute()
    assert caught.value.attempt == 2
    assert caught.value.result is not None
    attempts = caught.value.result.steps["db"].attempts
    assert [str(attempt.error) for attempt in attempts] == ["exec 1", "exec 2"]


def test_attempts_are_apart_by_retry_wait(clock: FakeClock) -> None:
    """Between two attempts pass 0.5 to 30 seconds, or the time given by `retry_wait`."""

    def waits(**options: Any) -> list[float]:
        times: list[float] = []

        def fail() -> None:
            times.append(clock.now())
            raise ValueError

        plan = Plan(clock=clock, continue_on_error=True)
        plan.add_step(GenericStep(exec=fail), retries=9, **options).execute()
        return [later - earlier for earlier, later in pairwise(times)]

    assert len(waits()) == 9
    assert all(0.499 < wait < 30.001 for wait in waits())
    assert waits(retry_wait="7s") == pytest.approx([7] * 9)


def test_generic_step_remembers_hooks_that_succeeded(calls: Calls) -> None:
    """A retry of a `GenericStep` continues with the hook that failed."""
    step = GenericStep(
        pre_exec=calls.hook("pre_exec"),
        exec=calls.hook("exec", failures=1),
        post_exec=calls.hook("post_exec", failures=1),
    )
    Plan().add_step(step, retries=2, retry_wait=0).execute()
    assert calls == ["pre_exec", "exec", "exec", "post_exec", "post_exec"]


def test_other_steps_repeat_all_hooks(calls: Calls) -> None:
    """A retry of a step class starts at `pre_exec`."""
    fail_once = calls.hook("post_exec", failures=1)

    class Database(Step):
        retries = 1
        retry_wait = 0

        def pre_exec(self) -> None:
            calls.append("pre_exec")

        def exec(self) -> None:
            calls.append("exec")

        def post_exec(self) -> None:
            fail_once()

    Plan().add_step(Database()).execute()
    assert calls == ["pre_exec", "exec", "post_exec"] * 2


def test_exec_is_not_called_when_pre_exec_failed(calls: Calls) -> None:
    """A failed `pre_exec` ends every attempt, even the last one with `continue_on_error`."""
    step = GenericStep(pre_exec=calls.hook("pre_exec", failures=2), exec=calls.hook("exec"))
    Plan(continue_on_error=True).add_step(step, retries=1, retry_wait=0).execute()
    assert calls == ["pre_exec", "pre_exec"]


def test_post_exec_is_not_called_when_exec_failed(calls: Calls) -> None:
    """A failed `exec` ends every attempt, even the last one with `continue_on_error`."""
    step = GenericStep(exec=calls.hook("exec", failures=2), post_exec=calls.hook("post_exec"))
    Plan(continue_on_error=True).add_step(step, retries=1, retry_wait=0).execute()
    assert calls == ["exec", "exec"]


def test_continue_on_error_loses_no_failure(calls: Calls) -> None:
    """The result has all failures, even if the last step succeeds."""
    plan = Plan(continue_on_error=True)
    plan.add_step(GenericStep(exec=calls.hook("first", failures=1)), name="first")
    plan.add_step(GenericStep(exec=calls.hook("second", failures=1)), name="second")
    plan.add_step(GenericStep(exec=calls.hook("third")), name="third")
    result = plan.execute()
    assert calls == ["first", "second", "third"]
    with pytest.raises(ExceptionGroup) as caught:
        result.raise_for_failures()
    assert [str(error.__cause__) for error in caught.value.exceptions] == ["first 1", "second 1"]


def test_continue_on_error_skips_the_cleanup_hook_of_a_failed_step(calls: Calls) -> None:
    """Only steps whose three hooks succeeded have their `cleanup` hook run."""
    plan = Plan(continue_on_error=True)
    for name, failures in [("one", 0), ("two", 1), ("three", 0)]:
        plan.add_step(
            GenericStep(
                exec=calls.hook(name, failures=failures), cleanup=calls.hook(f"clean {name}")
            ),
            name=name,
        )
    plan.execute()
    assert calls == ["one", "two", "three", "clean three", "clean one"]


def test_the_limit_runs_cleanup(calls: Calls, clock: FakeClock) -> None:
    """A plan that exceeds its limit cleans up before it raises."""
    plan = Plan(limit="10m", clock=clock)
    plan.add_step(GenericStep(exec=calls.hook("exec"), cleanup=calls.hook("cleanup")))
    plan.add_step(GenericStep(exec=lambda ctx: ctx.sleep("1h")))
    with pytest.raises(PlanTimeoutError):
        plan.execute()
    assert calls == ["exec", "cleanup"]


def test_cancel_runs_cleanup(calls: Calls) -> None:
    """A cancelled plan cleans up before it raises."""
    plan = Plan()

    def cancel(ctx: Context) -> None:
        plan.cancel("enough")
        ctx.sleep("1h")

    plan.add_step(GenericStep(exec=calls.hook("exec"), cleanup=calls.hook("cleanup")))
    plan.add_step(GenericStep(exec=cancel))
    with pytest.raises(PlanCancelledError, match="enough"):
        plan.execute()
    assert calls == ["exec", "cleanup"]


def test_execute_waits_for_the_step_that_it_stops(calls: Calls) -> None:
    """The stopped step has run its `finally` clause when `execute` raises."""
    plan = Plan()

    def cancel(ctx: Context) -> None:
        try:
            plan.cancel("enough")
            ctx.sleep("1h")
        finally:
            calls.append("finally")

    with pytest.raises(PlanCancelledError):
        plan.add_step(GenericStep(exec=cancel)).execute()
    assert calls == ["finally"]


def test_a_pause_can_be_cancelled() -> None:
    """A pause of an hour ends when the plan is cancelled while it waits."""
    plan = Plan().add_pause("1h")

    def cancel(event: Event) -> None:
        if isinstance(event, StepStarted):
            plan.cancel("enough")

    listen(plan, cancel)
    with pytest.raises(PlanCancelledError) as caught:
        plan.execute()
    assert caught.value.result is not None
    assert caught.value.result.steps["pause-1"].outcome is StepOutcome.CANCELLED


def test_deferred_calls_of_a_failed_step_run(calls: Calls) -> None:
    """They run in reverse order, without the `cleanup` hook."""

    def fail_half_way(ctx: Context, state: State) -> None:
        ctx.defer(calls.append, "undo one")
        ctx.defer(calls.append, "undo two")
        raise ValueError(state.get("missing"))

    step = GenericStep(exec=fail_half_way, cleanup=calls.hook("cleanup"))
    with pytest.raises(StepError):
        Plan().add_step(step).execute()
    assert calls == ["undo two", "undo one"]


def test_failed_cleanups_are_raised_together(calls: Calls) -> None:
    """Every cleanup runs, and one `CleanupError` has all that failed."""
    plan = Plan()
    for name, failures in [("one", 1), ("two", 0), ("three", 1)]:
        plan.add_step(GenericStep(cleanup=calls.hook(name, failures=failures)), name=name)
    with pytest.raises(CleanupError) as caught:
        plan.execute()
    assert calls == ["three", "two", "one"]
    errors: list[Any] = list(caught.value.exceptions)
    assert sorted(error.step for error in errors) == ["one", "three"]
