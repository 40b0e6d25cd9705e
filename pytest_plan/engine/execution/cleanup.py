"""The reverse flow of one step: its `cleanup` hook, then what it must undo, last made first."""

from __future__ import annotations

import functools
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from pytest_plan.engine.calls.body import Body, body_of
from pytest_plan.engine.calls.call import Abandoned, Call, Ending, Raised, Returned
from pytest_plan.engine.calls.generator import hook_body
from pytest_plan.engine.calls.scope import CallScope
from pytest_plan.engine.calls.undo import Undo
from pytest_plan.engine.execution.flow import Effect, Flow, Surroundings
from pytest_plan.engine.execution.record import StepRecord
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.events import StepCleaned
from pytest_plan.engine.model.outcomes import CleanupOutcome, Hook
from pytest_plan.engine.model.results import StepError
from pytest_plan.engine.processes.tree import KILL, Tree

ALL_HOOKS = frozenset(Hook)
RETRY = "retry"  # the `ctx.reason` between two attempts
_KILL_SECONDS = 5.0  # to end the process trees of a step whose time is up


@dataclass(slots=True, eq=False)
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
    cleanup = _Cleanup(record, around, reason, until)
    if record.cleanup_hook_is_due():
        yield from cleanup.run_hook()
    yield from cleanup.undo(ALL_HOOKS)
    undone = cleanup.undone
    errors, left = tuple(undone.errors), tuple(undone.left)
    record.end_cleanup(undone.outcome(), around.elapsed(), errors, left)
    around.services.journal.cleanup_ended(
        record.name, record.cleanup.outcome, hook_is_done=cleanup.hook_is_done
    )
    around.emit(StepCleaned(record.result(), around.elapsed()))


def undo_hooks(
    record: StepRecord, around: Surroundings, hooks: frozenset[Hook]
) -> Generator[Effect, Any, Undone]:
    """Take back what `hooks` made, so that they can run again."""
    cleanup = _Cleanup(record, around, RETRY, None)
    yield from cleanup.undo(hooks | {Hook.CLEANUP})
    return cleanup.undone


class _Cleanup:
    """One cleanup of one step, within its budget of time."""

    def __init__(
        self, record: StepRecord, around: Surroundings, reason: str, until: float | None
    ) -> None:
        self.undone = Undone()
        self.hook_is_done: bool = False
        self._record = record
        self._around = around
        self._reason = reason
        self._clock = around.services.clock
        self._journal = around.services.journal
        self._has_begun = False
        seconds = record.planned.options.cleanup_timeout
        own = self._clock.now() + seconds
        self._until = own if until is None else min(own, until)
        self._budget = f"its cleanup_timeout of {format_duration(seconds)}"
        if until is not None and until < own:
            self._budget = "the plan's cleanup limit"

    def run_hook(self) -> Generator[Effect, Any, None]:
        """Run the step's `cleanup` hook."""
        if self._is_over():
            self.undone.left.append("its cleanup hook")
            return
        scope = self._scope()
        function = self._record.planned.hooks[Hook.CLEANUP]
        keywords = self._around.arguments(function, scope, self._record)
        body = hook_body(self._record.name, function, keywords, self._clock)
        call = self._call(scope, body)
        self.hook_is_done = yield from self._perform(call, "its cleanup hook")
        if self.hook_is_done and len(self._record.undo) > 0:  # else the end is near, and says it
            self._journal.hook_done(self._record.name)

    def undo(self, hooks: frozenset[Hook]) -> Generator[Effect, Any, None]:
        """Take back what `hooks` made; process trees are ended even when the time is up."""
        while (entry := self._record.undo.pop(hooks)) is not None:
            if self._is_over() and self._reason == RETRY:
                # Nothing is lost: the cleanup at the end of the run goes on from here.
                self._record.undo.push(entry)
                self.undone.left.append(entry.label)
                return
            yield from self._undo_one(entry)

    def _undo_one(self, entry: Undo) -> Generator[Effect, Any, None]:
        is_done = False
        if not self._is_over():
            # What it was registered with may be used again: `ctx.defer(ctx.run, [...])`.
            entry.scope.renew(Hook.CLEANUP, self._until, self._reason)
            call = self._call(entry.scope, entry.body)
            is_done = yield from self._perform(call, entry.label)
        elif entry.tree is None:
            self.undone.left.append(entry.label)
        if entry.tree is not None and not is_done:
            is_done = yield from self._kill(entry.tree)
        if is_done:
            self._journal.undone(entry.number)

    def _kill(self, tree: Tree) -> Generator[Effect, Any, bool]:
        expires = self._clock.now() + _KILL_SECONDS
        body = body_of(tree.end, self._clock, KILL, 0.0)
        call = Call(self._scope(), body, self._record.log, expires, "the time for SIGKILL")
        return (yield from self._perform(call, f"kill {tree!r}"))

    def _scope(self) -> CallScope:
        return CallScope(self._record.name, Hook.CLEANUP, 1, self._until, self._reason)

    def _call(self, scope: CallScope, body: Body) -> Call:
        call = Call(scope, body, self._record.log, self._until, self._budget)
        if self._reason != RETRY and not self._has_begun:
            self._has_begun = True
            call.before = functools.partial(self._journal.cleanup_begun, self._record.name)
        return call

    def _is_over(self) -> bool:
        return self._clock.now() >= self._until

    def _perform(self, call: Call, label: str) -> Generator[Effect, Any, bool]:
        """Perform a call and note what went wrong; return whether nothing did."""
        ending: Ending = yield call
        stop = call.scope.flag.stop
        if isinstance(ending, Returned) and stop is None:
            return True
        if isinstance(ending, Abandoned):
            self.undone.was_abandoned = True
            self.undone.left.append(label)
            self._record.stack = self._record.stack or ending.stack
        raised = ending.error if isinstance(ending, Raised) else None
        error = raised or TimeoutError(label)
        if stop is not None:
            self.undone.was_stopped = True
            error = stop.error(self._record.name, Hook.CLEANUP, 1)
            error.__cause__ = raised
        failure = self._record.fail(Hook.CLEANUP, 1, error)
        failure.add_note(f"while undoing: {label}")
        self.undone.errors.append(failure)
        return False
