"""The reverse flow of one step: its `cleanup` hook, then what it must undo, last made first."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from pytest_plan.engine.bodies import body_of
from pytest_plan.engine.calls import Abandoned, Body, Call, Ending, Raised
from pytest_plan.engine.durations import format_duration
from pytest_plan.engine.errors import StepError
from pytest_plan.engine.events import StepCleaned
from pytest_plan.engine.flow import Effect, Flow, Surroundings, call_of
from pytest_plan.engine.outcomes import CleanupOutcome, Hook
from pytest_plan.engine.processes import KILL, Process
from pytest_plan.engine.record import StepRecord

ALL_HOOKS = frozenset(Hook)
_KILL_SECONDS = 5.0  # to end the process trees of a step whose time is up


@dataclass(slots=True)
class Undone:
    """What came of taking things back.

    Attributes:
        errors: what failed.
        left: what was not taken back, in words.
        was_stopped: whether something was stopped because its time was up.
        was_abandoned: whether something did not stop even then.
    """

    errors: list[StepError] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    was_stopped: bool = False
    was_abandoned: bool = False

    def outcome(self) -> CleanupOutcome:
        """Return how the cleanup of the step ended."""
        if self.was_abandoned or self.left:
            return CleanupOutcome.ABANDONED
        if self.was_stopped:
            return CleanupOutcome.TIMED_OUT
        return CleanupOutcome.FAILED if self.errors else CleanupOutcome.SUCCEEDED


def clean(record: StepRecord, around: Surroundings, reason: str, until: float) -> Flow:
    """Clean the step up before the time `until`; the record says how that ended."""
    record.begin_cleanup(around.elapsed())
    budget = _Budget(record, around, until)
    undone = Undone()
    if record.cleanup_hook_is_due():
        yield from _run_hook(record, around, reason, budget, undone)
    yield from _undo(record, around, ALL_HOOKS, budget, undone)
    errors, left = tuple(undone.errors), tuple(undone.left)
    record.end_cleanup(undone.outcome(), around.elapsed(), errors, left)
    around.emit(StepCleaned(record.result(), around.elapsed()))


def undo_hooks(
    record: StepRecord, around: Surroundings, hooks: frozenset[Hook]
) -> Generator[Effect, Any, Undone]:
    """Take back what `hooks` made, so that they can run again."""
    undone = Undone()
    yield from _undo(record, around, hooks, _Budget(record, around, None), undone)
    return undone


class _Budget:
    """The time that one cleanup may take."""

    def __init__(self, record: StepRecord, around: Surroundings, until: float | None) -> None:
        seconds = record.planned.options.cleanup_timeout
        self._clock = around.services.clock
        own = self._clock.now() + seconds
        self.until = own if until is None else min(own, until)
        self.words = f"its cleanup_timeout of {format_duration(seconds)}"
        if until is not None and until < own:
            self.words = "the plan's cleanup limit"

    def is_over(self) -> bool:
        return self._clock.now() >= self.until


def _run_hook(
    record: StepRecord, around: Surroundings, reason: str, budget: _Budget, undone: Undone
) -> Generator[Effect, Any, None]:
    if budget.is_over():
        undone.left.append("its cleanup hook")
        return
    call = _hook_call(record, around, reason, budget)
    yield from _perform(record, undone, call, "its cleanup hook")


def _undo(
    record: StepRecord,
    around: Surroundings,
    hooks: frozenset[Hook],
    budget: _Budget,
    undone: Undone,
) -> Generator[Effect, Any, None]:
    while (entry := record.undo.pop(hooks)) is not None:
        if not budget.is_over():
            call = _call(record, around, entry.body, budget)
            yield from _perform(record, undone, call, entry.label)
        elif entry.process is None:
            undone.left.append(entry.label)
        else:
            yield from _kill(record, around, entry.process, undone)


def _kill(
    record: StepRecord, around: Surroundings, process: Process, undone: Undone
) -> Generator[Effect, Any, None]:
    clock = around.services.clock
    scope = around.scope(record, Hook.CLEANUP, 1, None)
    body = body_of(process.end, clock, KILL, 0.0)
    call = call_of(scope, body, record, clock.now() + _KILL_SECONDS, "the time for SIGKILL")
    yield from _perform(record, undone, call, f"kill {process.pid}")


def _hook_call(record: StepRecord, around: Surroundings, reason: str, budget: _Budget) -> Call:
    function = record.planned.hooks[Hook.CLEANUP]
    scope = around.scope(record, Hook.CLEANUP, 1, budget.until)
    context = around.context(scope, record, reason)
    keywords = around.arguments(Hook.CLEANUP, function, context)
    body = body_of(function.function, **keywords)
    return call_of(scope, body, record, budget.until, budget.words)


def _call(record: StepRecord, around: Surroundings, body: Body, budget: _Budget) -> Call:
    scope = around.scope(record, Hook.CLEANUP, 1, budget.until)
    return call_of(scope, body, record, budget.until, budget.words)


def _perform(
    record: StepRecord, undone: Undone, call: Call, label: str
) -> Generator[Effect, Any, None]:
    ending: Ending = yield call
    stop = call.scope.flag.stop
    if isinstance(ending, Abandoned):
        undone.was_abandoned = True
        undone.left.append(label)
        record.stack = record.stack or ending.stack
    if stop is not None:
        undone.was_stopped = True
        error: BaseException = stop.error(record.name, Hook.CLEANUP, 1)
        if isinstance(ending, Raised):
            error.__cause__ = ending.error
    elif isinstance(ending, Raised):
        error = ending.error
    else:
        return
    failure = record.fail(Hook.CLEANUP, 1, error)
    failure.add_note(f"while undoing: {label}")
    undone.errors.append(failure)
