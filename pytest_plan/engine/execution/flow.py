"""What a step's flow may ask of the executor.

A flow is a generator that decides and never blocks: it yields a `Call` (and gets its `Ending`)
or a `Wait` (and gets None, or the `Stop` that cut it short). It runs under the executor's lock
and calls no user code, so it can be read, and tested, as if there were no threads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, TypeAlias

from pytest_plan.engine.calls.call import Call
from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.calls.scope import CallScope
from pytest_plan.engine.definition.signature import HookFunction
from pytest_plan.engine.execution.record import StepRecord
from pytest_plan.engine.model.events import Event
from pytest_plan.engine.model.outcomes import WITH_VALUE, Hook
from pytest_plan.engine.model.secret import reveal
from pytest_plan.engine.shared.services import Services


class Wait(NamedTuple):
    """Let this many seconds pass; ended at once when the plan stops running steps."""

    seconds: float


Effect: TypeAlias = Call | Wait
Flow: TypeAlias = Generator[Effect, Any, None]


class Surroundings(NamedTuple):
    """What the flows of a run know of it.

    Attributes:
        services: what all steps share.
        parameters: what hooks may take beside `ctx`, `state` and the values of steps.
        began: when the run began, as a time of the plan's clock.
        deadline: when the plan's limit passes; None without a limit.
        emit: tells the listeners.
        skip_on: exceptions by which a step asks to be skipped.
        stop_on: exceptions that end the whole plan and are raised as they are.
    """

    services: Services
    parameters: Mapping[str, Any]
    began: float
    deadline: float | None
    emit: Callable[[Event], None]
    skip_on: tuple[type[BaseException], ...]
    stop_on: tuple[type[BaseException], ...]

    def elapsed(self) -> float:
        """Return the seconds since the run began."""
        return self.services.clock.now() - self.began

    def arguments(
        self, function: HookFunction, scope: CallScope, record: StepRecord
    ) -> dict[str, Any]:
        """Return what a hook takes by name."""
        names = [
            *function.required,
            *(name for name in function.optional if self._knows(name, scope.hook)),
        ]
        if not names:
            return {}
        context = Context(scope, self.services, record.undo, record.log)
        return {name: self._argument(name, scope.hook, context, record) for name in names}

    def _argument(self, name: str, hook: Hook, context: Context, record: StepRecord) -> Any:
        if name == "ctx":
            return context
        if name == "state":
            return context.state
        if name in self.parameters:
            return self.parameters[name]
        if name == "value" and hook in WITH_VALUE:
            return reveal(record.value)
        return self.value(name)

    def _knows(self, name: str, hook: Hook) -> bool:
        return (
            name in ("ctx", "state")
            or name in self.parameters
            or (name == "value" and hook in WITH_VALUE)
            or self.services.store.is_reserved(name)
        )

    def value(self, step: str) -> Any:
        """Return the value of a step, None when it has none."""
        entry = self.services.store.read(step)
        return None if entry is None else reveal(entry.value)
