"""A value that takes long to pickle holds up its own step alone."""

from __future__ import annotations

from typing import Any

from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.plan import Plan
from pytest_plan.plugin.xdist.shared_store import SharedStore
from tests.engine.support.neighbour import Neighbour


class SlowValue:
    """Its pickle takes until the neighbour has timed out."""

    def __init__(self, neighbour: Neighbour) -> None:
        self._neighbour = neighbour

    def __reduce__(self) -> tuple[Any, ...]:
        self._neighbour.wait_for_its_timeout()
        return str, ("a slow value",)


def test_a_timeout_is_kept_beside_a_value_that_takes_long_to_pickle() -> None:
    """The value is pickled on the thread of its step."""
    neighbour = Neighbour()
    plan = Plan(continue_on_error=True, store=SharedStore())
    plan.add_step(GenericStep(exec=lambda: SlowValue(neighbour)), name="slow", needs=())
    neighbour.join(plan)
    result = plan.execute()
    neighbour.assert_kept(result)
    assert result.steps["slow"].outcome is StepOutcome.SUCCEEDED
