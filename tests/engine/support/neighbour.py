"""A step whose timeout must be kept, whatever a concurrent step does."""

from __future__ import annotations

import threading

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import PlanResult, StepTimeoutError
from pytest_plan.engine.plan import Plan
from tests.engine.support.steps import LONGEST_WAIT


class Neighbour:
    """A step `neighbour` that sleeps until its timeout of 50 ms stops it.

    Attributes:
        has_timed_out: set when the timeout has stopped it.
        was_kept: for each `wait_for_its_timeout`, whether the timeout came in time.
    """

    def __init__(self) -> None:
        self.has_timed_out = threading.Event()
        self.was_kept: list[bool] = []

    def join(self, plan: Plan) -> None:
        """Add the step to a plan."""
        plan.add_step(GenericStep(exec=self._exec), name="neighbour", needs=(), timeout="50ms")

    def wait_for_its_timeout(self) -> None:
        """Block, as slow user code and a slow disk do, until the neighbour has timed out."""
        self.was_kept.append(self.has_timed_out.wait(LONGEST_WAIT))

    def assert_kept(self, result: PlanResult) -> None:
        """Assert that the neighbour timed out while the other step was blocked."""
        assert self.was_kept == [True]
        assert result.steps["neighbour"].outcome is StepOutcome.TIMED_OUT

    def _exec(self, ctx: Context) -> None:
        try:
            ctx.sleep("1h")
        except StepTimeoutError:
            self.has_timed_out.set()
            raise
