"""The plan as seen by tests: `Host` in the process that runs the plan, `Remote` in a worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

import pytest

from pytest_plan.plugin.compat.pytest_internals import skip_at_item

if TYPE_CHECKING:
    from pytest_plan.engine.model.results import StepResult
    from pytest_plan.engine.shared.state import State


class Blocked(BaseException):
    """Ends a test that cannot run because of a step.

    It is not the exception of `pytest.fail`, because a tool such as Allure regards that as a fault
    of the tested product. Like pytest's own outcomes, it is not an `Exception`, so that tests do
    not catch it by mistake, and it is shown without its module.
    """

    __module__ = "builtins"


class Verdict(NamedTuple):
    """Why a test cannot run.

    Attributes:
        skips: whether the test is skipped; otherwise it is blocked.
        reason: the text for the test's report.
        steps: the steps that caused it.
        is_expected: whether the step called `pytest.xfail`.
        is_early: whether the step begins only after the tests that do not need it.
    """

    skips: bool
    reason: str
    steps: tuple[str, ...]
    is_expected: bool = False
    is_early: bool = False

    def fail(self) -> NoReturn:
        """End a test that has asked for a step while it ran: it fails, or is skipped."""
        __tracebackhide__ = True
        if not self.skips:
            pytest.fail(self.reason, pytrace=False)
        self.apply()

    def apply(self) -> NoReturn:
        """End a test before it runs as an expected failure, as skipped or as blocked."""
        __tracebackhide__ = True
        if self.is_expected:
            pytest.xfail(self.reason)
        if self.skips:
            skip_at_item(self.reason)
        raise Blocked(self.reason)


class PlanView(Protocol):
    """The plan as seen by the tests of one process.

    `Host` implements it where the plan runs, `Remote` in a worker, and `MissingPlan` in a worker
    whose controller does not have the plugin.
    """

    @property
    def state(self) -> State:
        """The State as seen by tests."""

    @property
    def run_id(self) -> str:
        """The id of the run."""

    @property
    def environment(self) -> str:
        """The name of the environment; if it has no name, `run-` followed by the run id."""

    def ensure(self, names: Iterable[str]) -> None:
        """Wait until each of these steps has ended or will not run."""

    def begin_test(self, names: Iterable[str]) -> None:
        """Fix what the steps have come to, for a test that begins and needs these steps.

        Forked copies of this process can read the values of these steps and nothing else.
        """

    def verdict_on(self, name: str) -> Verdict | None:
        """Return why a test that needs the step cannot run, or None if it can."""

    def test_variables(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return the environment variables that only tests that need one of these steps see."""

    def look(self, *, has_failed: bool = False) -> None:
        """Notice now, and not a moment later, that something has ended that a step needs.

        Args:
            has_failed: whether a test has failed, for which that may be the reason.
        """

    def results(self) -> Mapping[str, StepResult]:
        """Return the results of the steps so far."""

    def remaining(self) -> float | None:
        """Return the seconds left until the limit is reached, or None if there is no limit."""

    def control(self, action: str, step: str, name: str | None) -> str:
        """Control a program that a step has started, and return the name of its executable.

        Args:
            action: `find`, `stop`, `kill`, `start`; or `restore`, for all programs of the step that
                tests have stopped.
            step: the name of the step in the run.
            name: the name of the executable; None if the step has only one program.

        Raises:
            KeyError: there is no such program; the message lists what there is.
            RuntimeError: the program is running although it must not be, has ended, or is used by
                several workers.
            TimeoutError: it did not end, or was not ready in time.
        """


class MissingPlan:
    """The plan view of a worker whose controller has not loaded the plugin: there is no plan."""

    _REASON = (
        "the controller of this run has not loaded pytest-plan, so no step was provisioned: "
        "load it there as well (-p pytest_plan, or install it)"
    )

    @property
    def state(self) -> State:
        """Fail the test, because there is no State."""
        pytest.fail(self._REASON, pytrace=False)

    @property
    def run_id(self) -> str:
        """Fail the test, because there is no run."""
        pytest.fail(self._REASON, pytrace=False)

    @property
    def environment(self) -> str:
        """Fail the test, because there is no environment."""
        pytest.fail(self._REASON, pytrace=False)

    def ensure(self, names: Iterable[str]) -> None:
        """Return immediately."""

    def begin_test(self, names: Iterable[str]) -> None:
        """Do nothing, because there are no steps."""

    def verdict_on(self, name: str) -> Verdict | None:
        """Return a verdict that blocks the test, because nothing was provisioned."""
        return Verdict(skips=False, reason=self._REASON, steps=(name,))

    def test_variables(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return no variables."""
        return {}

    def look(self, *, has_failed: bool = False) -> None:
        """Do nothing, because there are no steps."""

    def results(self) -> Mapping[str, StepResult]:
        """Return no results."""
        return {}

    def remaining(self) -> float | None:
        """Return None, because there is no limit."""
        return None

    def control(self, action: str, step: str, name: str | None) -> str:
        """Fail the test, because there is no program."""
        pytest.fail(self._REASON, pytrace=False)
