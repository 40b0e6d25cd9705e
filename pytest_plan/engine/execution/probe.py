"""Asks what an earlier run has kept whether it still works."""

from __future__ import annotations

from collections.abc import Collection

from pytest_plan.engine.calls.bodies import body_of
from pytest_plan.engine.calls.call import Abandoned, Call, Ending, Raised
from pytest_plan.engine.calls.scope import CallScope
from pytest_plan.engine.execution.flow import Flow
from pytest_plan.engine.execution.phases import Course, Phase
from pytest_plan.engine.execution.record import StepRecord
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.outcomes import Hook

PATIENCE = 30.0  # seconds for an answer of a step that has no `timeout`


class Probe(Phase):
    """Calls the `alive` hook of each step in `names`, all at the same time.

    Attributes:
        dead: why a step is not alive, by its name.
    """

    def __init__(self, course: Course, names: Collection[str]) -> None:
        asked = [name for name in names if Hook.ALIVE in course.records[name].planned.hooks]
        super().__init__(course, {name: () for name in asked})
        self.dead: dict[str, str] = {}

    def priority(self, name: str) -> int:
        """None goes first."""
        return 0

    def begin(self, name: str) -> Flow | None:
        """Ask the step."""
        return self._ask(self._records[name])

    def cancelled(self, reason: str) -> None:
        """Believe nobody: what has not answered counts as dead."""
        self.dead.update(dict.fromkeys(self._records, reason))
        self.is_left = True

    def _ask(self, record: StepRecord) -> Flow:
        around = self._around
        seconds = record.planned.options.timeout or PATIENCE
        until = around.services.clock.now() + seconds
        scope = CallScope(record.name, Hook.ALIVE, 1, until)
        function = record.planned.hooks[Hook.ALIVE]
        keywords = around.arguments(function, scope, record)
        budget = f"the {format_duration(seconds)} it has to answer"
        body = body_of(function.function, **keywords)
        call = Call(scope, body, record.log, until, budget)
        ending: Ending = yield call
        if isinstance(ending, Abandoned) or scope.flag.stop is not None:
            self.dead[record.name] = f"its alive hook exceeded {budget}"
        elif isinstance(ending, Raised):
            self.dead[record.name] = f"its alive hook raised {describe(ending.error)}"
        elif ending.value is False:
            self.dead[record.name] = "its alive hook says no"
