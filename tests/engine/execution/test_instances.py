"""Runs of plans whose steps have instances."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pytest_plan import Context, GenericStep, Plan, State, StepError, StepOutcome
from pytest_plan.engine.model.errors import PlanDefinitionError


def test_hooks_get_the_values_of_the_right_instances() -> None:
    """By the plain name, as parameters and in the State; `ctx` has the worker and parameter."""
    seen: dict[str, Any] = {}

    def postgres(ctx: Context) -> str:
        return f"server {ctx.param}"

    def schema(ctx: Context, postgres: str, state: State) -> str:
        seen[ctx.step] = (ctx.worker, ctx.param, postgres, state["postgres"])
        state[f"by {ctx.step}"] = True
        return f"schema of {postgres}"

    def check(value: str, schema_of: str = "") -> None:
        seen[value] = True

    plan = Plan()
    plan.add_step(GenericStep(exec=postgres), name="postgres", params=["15", "16"])
    plan.add_step(GenericStep(exec=schema, cleanup=check), name="schema", per="worker")
    steps = plan.execute().steps
    assert list(steps) == ["postgres[15]", "postgres[16]", "schema[15]@master", "schema[16]@master"]
    assert seen == {
        "schema[15]@master": ("master", None, "server 15", "server 15"),
        "schema[16]@master": ("master", None, "server 16", "server 16"),
        "schema of server 15": True,
        "schema of server 16": True,
    }
    assert plan.state["schema[16]@master"] == "schema of server 16"


def test_a_plain_name_that_could_mean_several_instances_is_refused() -> None:
    """The KeyError names the instances; `in` and `get` find nothing."""
    found: list[Any] = []

    def look(state: State) -> None:
        found.extend(("postgres" in state, state.get("postgres")))
        with pytest.raises(KeyError, match=r"several instances.*: postgres\[15\], postgres\[16\]"):
            state["postgres"]

    plan = Plan()
    plan.add_step(GenericStep(exec=lambda: 1), name="postgres", params=["15", "16"])
    plan.add_step(GenericStep(exec=look), name="look")
    plan.execute()
    assert found == [False, None]


def test_a_parameter_that_fails_blocks_only_what_needs_it() -> None:
    """The other parameters go on, as with `continue_on_error`; the error is reported."""

    def postgres(ctx: Context) -> None:
        if ctx.param == "15":
            raise RuntimeError("no binaries")

    plan = Plan(jobs=1)
    plan.add_step(GenericStep(exec=postgres), name="postgres", params=["15", "16"])
    plan.add_step(GenericStep(exec=lambda postgres: None), name="schema")
    plan.add_step(GenericStep(exec=lambda: None), name="last")
    with pytest.raises(StepError, match="no binaries") as failed:
        plan.execute()
    assert failed.value.result is not None
    assert {name: step.outcome for name, step in failed.value.result.steps.items()} == {
        "postgres[15]": StepOutcome.FAILED,
        "postgres[16]": StepOutcome.SUCCEEDED,
        "schema[15]": StepOutcome.BLOCKED,
        "schema[16]": StepOutcome.SUCCEEDED,
        "last": StepOutcome.SUCCEEDED,
    }


class TestVariables:
    """`ctx.setenv` in an instance."""

    def test_those_of_a_parameter_are_seen_by_the_programs_that_need_it(self) -> None:
        """`os.environ` has them neither in the step nor later; the instances do not collide."""
        echo = ["sh", "-c", "echo $PLAN_URL"]
        seen: dict[str, str] = {}

        def postgres(ctx: Context) -> None:
            ctx.setenv("PLAN_URL", f"url of {ctx.param}")
            seen[ctx.step] = ctx.run(echo).stdout.strip()
            assert "PLAN_URL" not in os.environ

        def say(ctx: Context) -> None:
            seen[ctx.step] = ctx.run(echo).stdout.strip()

        plan = Plan(jobs=1)
        plan.add_step(GenericStep(exec=postgres), name="postgres", params=["15", "16"])
        plan.add_step(GenericStep(exec=say), name="schema", needs="postgres", per="worker")
        plan.add_step(GenericStep(exec=say), name="other", needs=())
        plan.execute()
        assert seen == {
            "postgres[15]": "url of 15",
            "postgres[16]": "url of 16",
            "schema[15]@master": "url of 15",
            "schema[16]@master": "url of 16",
            "other": "",
        }

    def test_those_of_the_worker_of_this_process_are_set_in_it(self) -> None:
        """A run without workers sees them as those of any step, until cleanup."""
        plan = Plan()
        step = GenericStep(exec=lambda ctx: ctx.setenv("PLAN_URL", ctx.worker))
        plan.add_step(step, name="database", per="worker")
        with plan.provisioned():
            assert os.environ["PLAN_URL"] == "master"
        assert "PLAN_URL" not in os.environ

    @pytest.mark.parametrize("first", ["database", "other"])
    def test_one_that_another_step_sets_is_refused(self, first: str) -> None:
        """Whichever comes first, the message names both."""
        plan = Plan(jobs=1)
        steps = {"database": {"params": ["x"]}, "other": {}}
        for name in (first, *(steps.keys() - {first})):
            step = GenericStep(exec=lambda ctx: ctx.setenv("PLAN_URL", "x"))
            plan.add_step(step, name=name, **steps[name])
        with pytest.raises(StepError) as failed:
            plan.execute()
        assert isinstance(failed.value.__cause__, PlanDefinitionError)
        assert {"database[x]", "other"} <= set(str(failed.value).split("'"))
