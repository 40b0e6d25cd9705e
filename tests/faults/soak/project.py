"""Writes the project of a random run: its conftest and tests, as a user would write them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.soak.plans import Drawn, StepData

_HEAD = """\
import pytest
from tests.faults.harness.fakes import note, watch_exit
from tests.faults.soak import steps

watch_exit()

def pytest_configure(config):
    note("worker" if hasattr(config, "workerinput") else "owner")

"""
_BODIES = {
    "function": """
def {name}({parameters}):
    value = steps.work(ctx)
    note("done", ctx.step, ctx.attempt)
    return value
""",
    "hook": """
def {name}({parameters}):
    return steps.work(ctx)
""",
    "class": """
class {name}(pytest_plan.Step):
    def exec(self, {parameters}):
        return steps.work(ctx)

    def post_exec(self, ctx):
        steps.finish(ctx)

    def cleanup(self, ctx):
        steps.cleanup(ctx)
""",
    "generator": """
def {name}({parameters}):
    value = steps.work(ctx)
    note("done", ctx.step, ctx.attempt)
    name, attempt = ctx.step, ctx.attempt
    steps.owe(ctx)
    yield value
    steps.tail(name, attempt)
""",
    "async function": """
async def {name}({parameters}):
    value = await steps.work_async(ctx)
    note("done", ctx.step, ctx.attempt)
    return value
""",
    "async generator": """
async def {name}({parameters}):
    value = await steps.work_async(ctx)
    note("done", ctx.step, ctx.attempt)
    name, attempt = ctx.step, ctx.attempt
    steps.owe(ctx)
    yield value
    steps.tail(name, attempt)
""",
}


def write(folder: Path, drawn: Drawn) -> None:
    """Write the project, and the data that it reads, next to the folder `project`."""
    (folder / "outside").mkdir()
    (folder / "plan.json").write_text(json.dumps(drawn.as_dict()))
    text = _HEAD + "import pytest_plan\n" + "".join(_declared(step) for step in drawn.steps)
    (folder / "project" / "conftest.py").write_text(text)
    tests = [
        f"def test_{number}({', '.join(test.uses)}):\n    steps.act({number}, dict("
        f"{', '.join(f'{name}={name}' for name in test.uses)}))\n"
        for number, test in enumerate(drawn.tests)
    ]
    head = "from tests.faults.soak import steps\n\n"
    (folder / "project" / "test_it.py").write_text(head + "\n\n".join(tests))


def _declared(step: StepData) -> str:
    options = {name: repr(value) for name, value in step.options.items()}
    options["name"] = repr(step.name)
    if step.kind in ("hook", "class") and step.attempted:
        options["cleanup_when"] = repr("attempted")
    if step.kind == "hook":
        options |= {"post_exec": "steps.finish", "cleanup": "steps.cleanup"}
    parameters = ["ctx"]
    if step.needs and step.kind in ("function", "generator"):
        parameters += step.needs
    elif step.needs is not None:
        options["needs"] = repr(list(step.needs))
    keywords = ", ".join(f"{name}={value}" for name, value in options.items())
    mark = f"\n@pytest.mark.plan_step({keywords})"
    return mark + _BODIES[step.kind].format(name=step.name, parameters=", ".join(parameters))
