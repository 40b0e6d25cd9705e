"""What a run came to."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import (
    AttemptResult,
    PlanResult,
    StepError,
    StepResult,
    critical_path,
)


def step(name: str, started: float | None = None, seconds: float = 0, **more: Any) -> StepResult:
    """Return the result of a step that succeeded."""
    return StepResult(name, StepOutcome.SUCCEEDED, started=started, seconds=seconds, **more)


def plan(*steps: StepResult) -> PlanResult:
    """Return the result of a plan."""
    by_name = {one.name: one for one in steps}
    return PlanResult("run", StepOutcome.SUCCEEDED, None, 1.0, None, by_name)


def failed(name: str) -> StepResult:
    """Return the result of a step that failed."""
    error = StepError(f"{name} failed", step=name, hook="exec", attempt=1)
    return StepResult(name, StepOutcome.FAILED, error=error)


def test_no_failure_raises_nothing() -> None:
    """An empty plan included."""
    plan().raise_for_failures()
    plan(step("a")).raise_for_failures()


def test_every_failure_is_raised() -> None:
    """In the order of the steps, also a single one as a group."""
    with pytest.raises(ExceptionGroup, match="2 steps failed") as caught:
        plan(failed("b"), step("c"), failed("a")).raise_for_failures()
    assert [str(error) for error in caught.value.exceptions] == ["b failed", "a failed"]
    with pytest.raises(ExceptionGroup):
        plan(failed("a")).raise_for_failures()


def test_results_are_frozen() -> None:
    """Nobody changes what has been."""
    for result in (plan(), step("a"), step("a").cleanup, AttemptResult(1, "exec", 0, 0)):
        with pytest.raises(AttributeError):
            result.seconds = 7  # type: ignore[misc]


def test_results_pickle() -> None:
    """With an error that cannot, it is replaced by its text."""

    class Local(Exception):  # noqa: N818 - it cannot be found by name
        pass

    attempt = AttemptResult(1, "exec", 0.0, 1.0, Local("text"))
    result = plan(step("a", 0.0, 1.0, attempts=(attempt,)), failed("b"))
    twin = pickle.loads(pickle.dumps(result))
    assert [str(error) for error in twin.failures()] == ["b failed"]
    assert "Local: text" in str(twin.steps["a"].attempts[0].error)
    assert twin.steps["a"].seconds == 1.0


class TestCriticalPath:
    """The chain that decided how long provisioning took."""

    def path(self, *steps: StepResult) -> tuple[str, ...]:
        """Return the path through these steps."""
        return critical_path({one.name: one for one in steps})

    def test_without_steps_that_ran_there_is_none(self) -> None:
        """Blocked ones do not count."""
        assert self.path() == ()
        assert self.path(step("a")) == ()

    def test_it_follows_whoever_ended_last(self) -> None:
        """By needs and by order edges."""
        assert self.path(
            step("net", 0, 1),
            step("slow", 0, 5),
            step("db", 5, 2, needs=("net", "slow")),
            step("mail", 1, 1, needs=("net",)),
            step("web", 7, 1, after=("db", "mail")),
        ) == ("slow", "db", "web")

    def test_it_leads_to_the_step_that_ended_last(self) -> None:
        """Not to the last of the list."""
        assert self.path(step("a", 0, 9), step("b", 0, 1)) == ("a",)

    def test_it_passes_over_steps_that_did_not_run(self) -> None:
        """A skipped step costs nothing."""
        assert self.path(step("a"), step("b", 0, 1, after=("a",))) == ("b",)
