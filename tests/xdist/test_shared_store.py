"""The controller's store of the State, without workers."""

from __future__ import annotations

from typing import Any

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.secret import Secret
from pytest_plan.engine.plan import Plan
from pytest_plan.engine.shared.state import State
from pytest_plan.plugin.xdist.shared_store import SharedStore
from tests.engine.support.neighbour import Neighbour
from tests.engine.support.steps import execute


class SlowValue:
    """A value whose pickling takes until another step has timed out."""

    def __init__(self, neighbour: Neighbour) -> None:
        self._neighbour = neighbour

    def __reduce__(self) -> tuple[Any, ...]:
        self._neighbour.wait_for_its_timeout()
        return str, ("a slow value",)


def test_slow_pickling_does_not_delay_another_timeout() -> None:
    """Pickling a value does not delay another step's timeout."""
    neighbour = Neighbour()
    plan = Plan(continue_on_error=True, store=SharedStore())
    plan.add_step(GenericStep(exec=lambda: SlowValue(neighbour)), name="slow", needs=())
    neighbour.join(plan)
    result = plan.execute()
    neighbour.assert_kept(result)
    assert result.steps["slow"].outcome is StepOutcome.SUCCEEDED


def test_a_secret_set_before_the_run_is_masked() -> None:
    """A secret that is in the State before the run is masked in the log of a step."""
    plan = Plan(store=SharedStore())
    plan.state["token"] = Secret("hunter2-very-secret")

    def exec(ctx: Context, state: State) -> None:
        ctx.log(f"password is {state['token'].reveal()}")
        raise ValueError

    plan.add_step(GenericStep(exec=exec), name="login")
    execute(plan)
    assert plan.results["login"].log_tail == "password is ***"
