"""Row 68: random graphs with two random faults each, judged by the checker alone."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_plan import Context, Plan, Step
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import execute
from tests.faults.harness import checker, fakes
from tests.faults.harness.scenario import Tally

EXAMPLES = 500
FAULTS = st.sampled_from(["error", "interrupt", "system_exit", "recurse", "doze", "cancel"])


class Light(Step):
    """A fake step without a process or file, cheap enough for many runs."""

    cleanup_when = "attempted"

    def __init__(self, faults: dict[str, str], plan: Plan) -> None:
        self._faults = faults
        self._plan = plan

    def pre_exec(self, ctx: Context) -> None:
        """Record the beginning and defer two calls."""
        fakes.note("begin", ctx.step)
        for number in (1, 2):
            fakes.note("defer", ctx.step, number)
            ctx.defer(fakes.note, "undo", ctx.step, number)
        self._at("pre_exec", ctx)

    def exec(self, ctx: Context) -> str:
        """Return the step's name."""
        self._at("exec", ctx)
        return ctx.step

    def post_exec(self, ctx: Context) -> None:
        """Record that the step is done."""
        self._at("post_exec", ctx)
        fakes.note("done", ctx.step)

    def cleanup(self, ctx: Context) -> None:
        """Record the cleanup."""
        fakes.note("cleanup", ctx.step)
        try:
            self._at("cleanup", ctx)
        finally:
            fakes.note("cleaned", ctx.step)

    def _at(self, hook: str, ctx: Context) -> None:
        fault = self._faults.get(f"{ctx.step}.{hook}")
        ctx.sleep(1)
        if fault == "doze":
            ctx.sleep(1000)
        elif fault == "cancel":
            self._plan.cancel()
        elif fault is not None:
            fakes.at(f"{ctx.step}.{hook}", ctx)


@st.composite
def graphs(draw: Any) -> dict[str, list[str]]:
    """Return the needs of random steps."""
    names = [f"s{number}" for number in range(draw(st.integers(1, 7)))]
    return {
        name: draw(st.lists(st.sampled_from(names[:index]), unique=True, max_size=3))
        if index
        else []
        for index, name in enumerate(names)
    }


def test_g4_random_graphs_with_random_faults_keep_every_promise(
    tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 68: whatever the graph, jobs and faults, each step is cleaned up once and in order."""
    path = tmp_path / "history"
    monkeypatch.setenv(fakes.HISTORY, str(path))

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(graphs(), st.integers(1, 4), st.booleans(), st.data())
    def run(graph: dict[str, list[str]], jobs: int, goes_on: bool, data: st.DataObject) -> None:
        hooks = (*fakes.HOOKS, "cleanup")
        moments = st.sampled_from([f"{name}.{hook}" for name in graph for hook in hooks])
        faults = data.draw(st.dictionaries(moments, FAULTS, min_size=1, max_size=2))
        path.unlink(missing_ok=True)
        monkeypatch.setenv(fakes.FAULTS, json.dumps(faults))
        tally.runs += 1
        tally.faults += len(faults)
        plan = Plan(
            jobs=jobs, continue_on_error=goes_on, clock=FakeClock(), limit=500, cleanup_limit=400
        )
        for name, needs in graph.items():
            plan.add_step(Light(faults, plan), name=name, needs=needs, cleanup_timeout=100)
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            execute(plan)
        found = list(checker.violations(checker.read(path), graph, left=_late(faults)))
        tally.violations += len(found)
        assert found == []

    run()


def _late(faults: dict[str, str]) -> list[str]:
    """Return the steps whose cleanup hook uses up the time for their deferred calls."""
    return [
        moment.partition(".")[0]
        for moment, fault in faults.items()
        if moment.endswith(".cleanup") and fault == "doze"
    ]
