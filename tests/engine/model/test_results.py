"""The results of a run."""

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
    """Return the result of a successful step."""
    return StepResult(name, StepOutcome.SUCCEEDED, started=started, seconds=seconds, **more)


def plan(*steps: StepResult) -> PlanResult:
    """Return the result of a plan with these steps."""
    by_name = {one.name: one for one in steps}
    return PlanResult("run", StepOutcome.SUCCEEDED, None, 1.0, None, by_name)


def failed(name: str) -> StepResult:
    """Return the result of a failed step."""
    error = StepError(f"{name} failed", step=name, hook="exec", attempt=1)
    return StepResult(name, StepOutcome.FAILED, error=error)


def test_without_failures_nothing_is_raised() -> None:
    """This also holds for an empty plan."""
    plan().raise_for_failures()
    plan(step("a")).raise_for_failures()


def test_every_failure_is_raised() -> None:
    """The group has the errors in the order of the steps; a single failure is a group, too."""
    with pytest.raises(ExceptionGroup, match="2 steps failed") as caught:
        plan(failed("b"), step("c"), failed("a")).raise_for_failures()
    assert [str(error) for error in caught.value.exceptions] == ["b failed", "a failed"]
    with pytest.raises(ExceptionGroup, match="1 step failed"):
        plan(failed("a")).raise_for_failures()


def test_results_are_frozen() -> None:
    """The attributes of a result cannot be set."""
    for result in (plan(), step("a"), step("a").cleanup, AttemptResult(1, "exec", 0, 0)):
        with pytest.raises(AttributeError):
            result.seconds = 7  # type: ignore[misc]


def test_results_pickle() -> None:
    """An exception inside that cannot be pickled is replaced by its text."""

    class Local(Exception):  # noqa: N818 - pickle cannot find a local class
        pass

    attempt = AttemptResult(1, "exec", 0.0, 1.0, Local("text"))
    result = plan(step("a", 0.0, 1.0, attempts=(attempt,)), failed("b"))
    twin = pickle.loads(pickle.dumps(result))
    assert [str(error) for error in twin.failures()] == ["b failed"]
    assert "Local: text" in str(twin.steps["a"].attempts[0].error)
    assert twin.steps["a"].seconds == 1.0


class TestCriticalPath:
    """The chain of steps that determined how long provisioning took."""

    def path(self, *steps: StepResult) -> tuple[str, ...]:
        """Return the critical path of these steps."""
        return critical_path({one.name: one for one in steps})

    def test_it_is_empty_if_no_step_ran(self) -> None:
        """A step that did not start is not part of it."""
        assert self.path() == ()
        assert self.path(step("a")) == ()

    def test_it_follows_the_dependency_that_ended_last(self) -> None:
        """Needs and order edges both count."""
        assert self.path(
            step("net", 0, 1),
            step("slow", 0, 5),
            step("db", 5, 2, needs=("net", "slow")),
            step("mail", 1, 1, needs=("net",)),
            step("web", 7, 1, after=("db", "mail")),
        ) == ("slow", "db", "web")

    def test_it_leads_to_the_step_that_ended_last(self) -> None:
        """It does not lead to the step that was declared last."""
        assert self.path(step("a", 0, 9), step("b", 0, 1)) == ("a",)

    def test_it_passes_over_steps_that_did_not_run(self) -> None:
        """A dependency that did not run is left out."""
        assert self.path(step("a"), step("b", 0, 1, after=("a",))) == ("b",)
