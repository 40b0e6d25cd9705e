"""Instances: names, needs, order edges, and what cannot be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_plan.engine.definition.graph import closure
from pytest_plan.engine.definition.names import instance_name, template_of, worker_of
from pytest_plan.engine.definition.options import RunOptions
from pytest_plan.engine.definition.plan_definition import PlanDefinition
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.errors import PlanDefinitionError


def definition(*workers: str) -> PlanDefinition:
    """Return the definition of an empty plan for these workers."""
    options = RunOptions(
        limit=None, continue_on_error=False, cleanup_limit=1.0, jobs=1, parameters={}
    )
    found = PlanDefinition(options)
    found.workers = workers or ("master",)
    return found


def declare(plan: PlanDefinition, name: str, folder: str = "", **options: Any) -> None:
    """Declare a step at `conftest.py:<name>`."""
    scope = tuple(folder.split("/")) if folder else ()
    step = GenericStep(exec=lambda: None)
    plan.declare(step, name, options, f"conftest.py:{name}", scope=scope, folder=folder)


def needs(plan: PlanDefinition) -> dict[str, tuple[str, ...]]:
    """Return the needs of all instances by name."""
    return {name: step.needs for name, step in plan.linked().items()}


def test_a_step_per_worker_has_an_instance_for_each_worker() -> None:
    """It needs what all workers share, and the instances for its own worker."""
    plan = definition("gw0", "gw1")
    declare(plan, "server")
    declare(plan, "database", per="worker", needs="server")
    declare(plan, "app", per="worker", needs="database")
    assert needs(plan) == {
        "server": (),
        "database@gw0": ("server",),
        "database@gw1": ("server",),
        "app@gw0": ("database@gw0",),
        "app@gw1": ("database@gw1",),
    }
    step = plan.linked()["app@gw1"]
    assert (step.template, step.worker, step.shared_name) == ("app", "gw1", "app")


def test_parameters_multiply_the_steps_that_need_them() -> None:
    """An instance needs those with the same parameters; two parameters make a product."""
    plan = definition("gw0")
    declare(plan, "postgres", params=["15", 16])
    declare(plan, "cache", needs=(), params=(one for one in (None, object())))
    declare(plan, "app", needs=("postgres", "cache"), per="worker")
    assert needs(plan) == {
        "postgres[15]": (),
        "postgres[16]": (),
        "cache[None]": (),
        "cache[cache1]": (),
        "app[15,None]@gw0": ("postgres[15]", "cache[None]"),
        "app[15,cache1]@gw0": ("postgres[15]", "cache[cache1]"),
        "app[16,None]@gw0": ("postgres[16]", "cache[None]"),
        "app[16,cache1]@gw0": ("postgres[16]", "cache[cache1]"),
    }
    assert [plan.linked()[name].param for name in ("postgres[15]", "postgres[16]")] == ["15", 16]


def test_a_parameter_is_chosen_once_on_every_way_to_it() -> None:
    """A step that needs one step directly and through another has no mixed instances."""
    plan = definition()
    declare(plan, "postgres", params=["15", "16"])
    declare(plan, "schema", needs="postgres")
    declare(plan, "app", needs=("schema", "postgres"), params=["x"])
    assert needs(plan)["app[15,x]"] == ("schema[15]", "postgres[15]")
    assert len(needs(plan)) == 6


def test_an_order_edge_means_all_instances() -> None:
    """A step of the list waits until all instances of the one before have ended."""
    plan = definition("gw0", "gw1")
    declare(plan, "database", per="worker")
    declare(plan, "postgres", params=["15", "16"])
    declare(plan, "last")
    steps = plan.linked()
    assert steps["postgres[15]"].after == ("database@gw0", "database@gw1")
    assert steps["last"].after == ("postgres[15]", "postgres[16]")


def test_a_skip_means_all_instances_or_one() -> None:
    """The plain name means all, and the full name means one."""
    plan = definition("gw0", "gw1")
    declare(plan, "database", per="worker")
    declare(plan, "postgres", params=["15", "16"])
    plan.skip("database", "all")
    plan.skip("postgres[15]", "one")
    assert [step.options.skip for step in plan.linked().values()] == ["all", "all", "one", None]


def test_without_workers_there_is_no_instance_of_a_step_per_worker() -> None:
    """They are added when the workers are known."""
    plan = definition()
    plan.workers = ()
    declare(plan, "database", per="worker")
    declare(plan, "last")
    assert needs(plan) == {"last": ()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "test"}, "per of step 'a' (conftest.py:a) must be 'run' or 'worker', not 'test'"),
        (
            {"params": []},
            "params of step 'a' (conftest.py:a) has no values, so the step would have no "
            "instance; list at least one value, or remove the option",
        ),
        (
            {"params": "abc"},
            "params of step 'a' (conftest.py:a) must be a list of values, not 'abc'",
        ),
        ({"params": 3}, "params of step 'a' (conftest.py:a) must be a list of values, not 3"),
        (
            {"params": [1], "ids": "x"},
            "ids of step 'a' (conftest.py:a) must be a list of ids or a function, not 'x'",
        ),
        (
            {"params": [1, 2], "ids": ["x", "x"]},
            "step 'a' (conftest.py:a): two parameters have the id 'x'; give each an id of its own",
        ),
        (
            {"params": [1, 2], "ids": ["x"]},
            "step 'a' (conftest.py:a) has 2 params and 1 ids; give each parameter one id",
        ),
        (
            {"ids": ["x"]},
            "step 'a' (conftest.py:a) has ids, but no params that they could name; add params, or "
            "remove ids",
        ),
        (
            {"per": "worker", "eager": True},
            "step 'a' (conftest.py:a) cannot be eager, because it is provisioned once per worker, "
            "and there is no worker before collection; remove eager=True or per='worker'",
        ),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    """The message names the step, its place and what to change."""
    with pytest.raises(PlanDefinitionError) as refused:
        declare(definition(), "a", **options)
    assert str(refused.value) == message


def test_a_step_for_all_cannot_need_one_per_worker() -> None:
    """The message names both steps, their places and two cures."""
    plan = definition()
    declare(plan, "database", per="worker")
    declare(plan, "report", needs="database")
    with pytest.raises(PlanDefinitionError) as refused:
        plan.linked()
    assert str(refused.value) == (
        "step 'report' (conftest.py:report) is provisioned once per run, but needs 'database' "
        "(conftest.py:database), which is provisioned once per worker; give 'report' the option "
        "per='worker', or let it need a step that all workers share"
    )


def test_ids_come_from_a_function_a_list_or_the_values() -> None:
    """None in a list or from the function means the id of the value."""
    plan = definition()
    declare(plan, "one", params=[1, 2], ids=lambda value: "first" if value == 1 else None)
    declare(plan, "two", params=[1, "ä/b"], ids=["first", None])
    assert list(plan.linked()) == ["one[first]", "one[2]", "two[first]", "two[\\xe4/b]"]


@pytest.mark.parametrize(
    ("template", "folder", "ids", "worker"),
    [
        ("database", "", (), "gw0"),
        ("postgres", "", ("16",), None),
        ("app", "", ("1/a@b", "[x]"), "gw1"),
        ("a[1]/b@c/db", "a[1]/b@c", ("x/y",), "gw2"),
        ("db", "a[1]/b@c", ("x/y@z",), None),
        ("step-1", "", (), None),
    ],
)
def test_the_name_of_an_instance_can_be_taken_apart(
    template: str, folder: str, ids: Sequence[str], worker: str | None
) -> None:
    """Folders and ids may contain the characters that separate the parts."""
    name = instance_name(template, ids, worker)
    assert template_of(name, folder) == template
    assert worker_of(name) == worker


def test_full_names_of_instances_are_unique() -> None:
    """They have the folder, the name, the parameters and the worker."""
    plan = definition("gw0")
    declare(plan, "db", folder="a", per="worker", params=["1/2"])
    found: PlannedStep = plan.linked()["db[1/2]@gw0"]
    assert found.full_name == "a/db[1/2]@gw0"


@st.composite
def plans(draw: st.DrawFn) -> PlanDefinition:
    """Draw a plan whose steps need earlier ones, and are per worker or have parameters."""
    plan = definition(*draw(st.sampled_from([("master",), ("gw0", "gw1"), ()])))
    per_worker: set[str] = set()
    for number in range(draw(st.integers(1, 6))):
        name = f"s{number}"
        needs = draw(st.sets(st.sampled_from([f"s{one}" for one in range(number)] or [""])))
        needs.discard("")
        options: dict[str, Any] = {"needs": tuple(sorted(needs))}
        is_per_worker = draw(st.booleans())
        if is_per_worker or needs & per_worker:
            options["per"] = "worker"
            per_worker.add(name)
        if draw(st.integers(0, 3)) == 0:
            options["params"] = list(range(draw(st.integers(1, 3))))
        declare(plan, name, **options)
    return plan


@given(plans())
@settings(max_examples=50, deadline=None)
def test_instances_are_complete_and_consistent(plan: PlanDefinition) -> None:
    """In a random plan: one for each worker and combination, each with needs that agree."""
    templates, steps = plan.templates(), plan.linked()
    for name, template in templates.items():
        own = [step for step in steps.values() if step.template == name]
        reached = closure([name], templates)
        params = [templates[one].options.params for one in reached]
        combinations = math.prod(len(one) for one in params if one is not None)
        workers = len(plan.workers) if template.options.per == "worker" else 1
        assert len(own) == combinations * workers
        assert len({(step.worker, *sorted(step.choice.items())) for step in own}) == len(own)
        for step in own:
            assert template_of(step.name) == name
            assert worker_of(step.name) == step.worker
            needed = [steps[need] for need in step.needs]
            assert [one.template for one in needed] == list(template.needs)
            for one in needed:
                assert one.worker in (None, step.worker)
                assert one.choice.items() <= step.choice.items()
