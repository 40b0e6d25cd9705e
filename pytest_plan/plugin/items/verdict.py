"""The plan as tests see it: `Host` in the process that runs it, `Remote` in a worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

import pytest

from pytest_plan.plugin.compat.pytest_internals import skip_at_item

if TYPE_CHECKING:
    from pytest_plan.engine.model.results import StepResult
    from pytest_plan.engine.shared.state import State


class Verdict(NamedTuple):
    """Why a test cannot run.

    Attributes:
        skips: whether the test is skipped; otherwise it is blocked.
        reason: the text for the test's report.
        steps: the steps that are the cause.
        is_expected: whether the step called `pytest.xfail`.
    """

    skips: bool
    reason: str
    steps: tuple[str, ...]
    is_expected: bool = False

    def apply(self) -> NoReturn:
        """End the running test: expected failure, skipped or failed."""
        if self.is_expected:
            pytest.xfail(self.reason)
        if self.skips:
            skip_at_item(self.reason)
        pytest.fail(self.reason, pytrace=False)


class PlanView(Protocol):
    """The plan as the tests of one process see it.

    `Host` implements it where the plan runs, `Remote` in a worker, and `MissingPlan` in a worker
    whose controller does not have the plugin.
    """

    @property
    def state(self) -> State:
        """The State as tests see it."""

    @property
    def run_id(self) -> str:
        """The id of the run."""

    def ensure(self, names: Iterable[str]) -> None:
        """Wait until these steps are decided: each has ended, or will not run."""

    def verdict_on(self, name: str) -> Verdict | None:
        """Return why a test that needs the step cannot run, None when it can."""

    def results(self) -> Mapping[str, StepResult]:
        """Return the result of each step so far."""

    def remaining(self) -> float | None:
        """Return the seconds until the limit passes; None without a limit."""


class MissingPlan:
    """The plan view of a worker whose controller has not loaded the plugin: there is no plan."""

    _REASON = (
        "the controller of this run has not loaded pytest-plan, so no step was provisioned: "
        "load it there as well (-p pytest_plan, or install it)"
    )

    @property
    def state(self) -> State:
        """Fail the test: there is no State."""
        pytest.fail(self._REASON, pytrace=False)

    @property
    def run_id(self) -> str:
        """Fail the test: there is no run."""
        pytest.fail(self._REASON, pytrace=False)

    def ensure(self, names: Iterable[str]) -> None:
        """Return at once."""

    def verdict_on(self, name: str) -> Verdict | None:
        """Return a verdict that blocks the test, because nothing was provisioned."""
        return Verdict(skips=False, reason=self._REASON, steps=(name,))

    def results(self) -> Mapping[str, StepResult]:
        """Return no results."""
        return {}

    def remaining(self) -> float | None:
        """Return None: there is no limit."""
        return None
