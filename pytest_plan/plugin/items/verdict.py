"""Where tests learn about the plan: from the run in this process, or from the controller."""

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
        skips: whether it is skipped; else it is blocked.
        reason: in words.
        steps: the steps at fault.
        is_expected: whether the step called `pytest.xfail`.
    """

    skips: bool
    reason: str
    steps: tuple[str, ...]
    is_expected: bool = False

    def apply(self) -> NoReturn:
        """End the running test."""
        if self.is_expected:
            pytest.xfail(self.reason)
        if self.skips:
            skip_at_item(self.reason)
        pytest.fail(self.reason, pytrace=False)


class PlanView(Protocol):
    """What tests of one process may know of the plan."""

    @property
    def state(self) -> State:
        """The State as tests see it."""

    @property
    def run_id(self) -> str:
        """The id of the run."""

    def ensure(self, names: Iterable[str]) -> None:
        """Wait until it is decided what becomes of these steps."""

    def verdict_on(self, name: str) -> Verdict | None:
        """Return why a test that needs the step cannot run, None when it can."""

    def results(self) -> Mapping[str, StepResult]:
        """Return what each step has come to so far."""

    def remaining(self) -> float | None:
        """Return the seconds until the limit passes; None without a limit."""


class MissingPlan:
    """What the tests of a worker see when its controller has not loaded the plugin."""

    _REASON = (
        "the controller of this run has not loaded pytest-plan, so no step was provisioned: "
        "load it there too (-p pytest_plan, or install it)"
    )

    @property
    def state(self) -> State:
        """There is none."""
        pytest.fail(self._REASON, pytrace=False)

    @property
    def run_id(self) -> str:
        """There is none."""
        pytest.fail(self._REASON, pytrace=False)

    def ensure(self, names: Iterable[str]) -> None:
        """Return at once."""

    def verdict_on(self, name: str) -> Verdict | None:
        """Return that nothing was provisioned."""
        return Verdict(skips=False, reason=self._REASON, steps=(name,))

    def results(self) -> Mapping[str, StepResult]:
        """Return nothing."""
        return {}

    def remaining(self) -> float | None:
        """Return that there is no limit."""
        return None
