"""Calls `alive` hooks: the pass over steps of an earlier run, and the checks while tests run."""

from __future__ import annotations

from collections.abc import Collection

from pytest_plan.engine.calls.call import Abandoned, Ending, Raised, Returned
from pytest_plan.engine.execution.flow import Flow, hook_call
from pytest_plan.engine.execution.phases import Phase, RunStatus
from pytest_plan.engine.execution.step_run import StepRun
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.shared.programs.checks import LEAST_TIME, Check
from pytest_plan.engine.shared.run_facts import RunFacts

ALIVE_TIMEOUT = 30.0  # seconds that `alive` hooks may take if the step has no `timeout`


class Probe(Phase):
    """Calls the `alive` hook of each step in `names` that has one.

    Attributes:
        dead: the reasons why steps are not alive, by step name.
    """

    def __init__(self, status: RunStatus, names: Collection[str]) -> None:
        asked = [name for name in names if Hook.ALIVE in status.step_runs[name].planned.hooks]
        super().__init__(status, {name: () for name in asked})
        self.dead: dict[str, str] = {}

    def priority(self, name: str) -> int:
        """Return the same rank for every step."""
        return 0

    def begin(self, name: str) -> Flow | None:
        """Return the flow that calls the step's `alive` hook."""
        return self._ask(self._step_runs[name])

    def cancelled(self, reason: str) -> None:
        """Record every step as not alive, and leave the phase."""
        self.dead.update(dict.fromkeys(self._step_runs, reason))
        self.is_left = True

    def _ask(self, step_run: StepRun) -> Flow:
        facts = self._facts
        seconds = step_run.planned.options.timeout or ALIVE_TIMEOUT
        until = facts.clock.now() + seconds
        budget = f"its timeout of {format_duration(seconds)}"
        call = hook_call(step_run, facts, Hook.ALIVE, deadline=until, expires=until, budget=budget)
        ending: Ending = yield call
        if isinstance(ending, Abandoned) or call.scope.flag.stop is not None:
            self.dead[step_run.name] = f"its alive hook exceeded {budget}"
        elif isinstance(ending, Raised):
            self.dead[step_run.name] = f"its alive hook raised {ending.text}"
        elif ending.value is False:
            self.dead[step_run.name] = "its alive hook returned False"


def alive_check(step_run: StepRun, facts: RunFacts) -> Check | None:
    """Return the check that calls the `alive` hook of a step; None without `alive_every`."""
    every = step_run.planned.options.alive_every
    if every is None:
        return None

    def call() -> bool:
        until = facts.clock.now() + max(LEAST_TIME, every)
        ending = hook_call(
            step_run, facts, Hook.ALIVE, deadline=until, expires=None, budget=""
        ).perform()
        if isinstance(ending, Raised):
            raise ending.error
        return isinstance(ending, Returned) and ending.value is not False

    return Check(step_run.name, "alive", call, every)
