"""The object that the fixture `plan` returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pytest_plan.engine.model.results import StepResult
    from pytest_plan.engine.shared.state import State
    from pytest_plan.plugin.items.verdict import PlanView
    from pytest_plan.plugin.options import Settings


class Access(Protocol):
    """The part of `PlanSession` that a handle uses."""

    settings: Settings

    @property
    def view(self) -> PlanView:
        """The plan as seen by the tests of this process."""

    def require(self, name: str) -> None:
        """End the running test unless the step has succeeded."""


class PlanHandle:
    """The plan as seen by a test."""

    __module__ = "pytest_plan"

    def __init__(self, plan_session: Access) -> None:
        self._plan_session = plan_session

    @property
    def state(self) -> State:
        """The State that all steps and tests share."""
        return self._plan_session.view.state

    @property
    def results(self) -> Mapping[str, StepResult]:
        """The results of the steps so far, by step name."""
        return self._plan_session.view.results()

    @property
    def run_id(self) -> str:
        """The id of this run of the plan: eight hexadecimal digits."""
        return self._plan_session.view.run_id

    @property
    def environment(self) -> str:
        """The name of the environment; if it has no name, `run-` followed by the run id."""
        return self._plan_session.settings.environment_name or f"run-{self.run_id}"

    def remaining(self) -> float | None:
        """Return the seconds left until the plan's limit (never negative); None means no limit."""
        return self._plan_session.view.remaining()

    def need(self, *names: str) -> None:
        """Fail the test unless these steps have succeeded; do not provision them.

        Raises:
            pytest.fail.Exception: a step has not succeeded; the message says why.
        """
        for name in names:
            self._plan_session.require(name)

    def __repr__(self) -> str:
        return f"<PlanHandle {self.environment}>"
