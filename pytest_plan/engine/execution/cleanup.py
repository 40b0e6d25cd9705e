"""The cleanup flow of one step: its `cleanup` hook, then its undos in reverse order.

A failure does not stop the undos that follow. If a call uses up the time limit, the undos that are
left share as much time again, so a call that hangs never keeps an earlier one from running. Once
the limit of the whole cleanup is reached, the flow still ends process trees, and reports everything
else as not undone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Generator
from typing import Any

from pytest_plan.engine.calls.body import LoopEndBody, body_of
from pytest_plan.engine.calls.call import (
    Abandoned,
    Call,
    CallScope,
    Ending,
    Raised,
    Refused,
    Returned,
)
from pytest_plan.engine.calls.stopping.interrupt import StepInterrupted
from pytest_plan.engine.calls.undo import Undo
from pytest_plan.engine.execution.flow import Effect, Flow, hook_call
from pytest_plan.engine.execution.step_run import StepRun
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import PlanError, describe
from pytest_plan.engine.model.events import StepCleaned
from pytest_plan.engine.model.outcomes import CleanupOutcome, Hook
from pytest_plan.engine.model.results import StepError
from pytest_plan.engine.model.stop import Stop
from pytest_plan.engine.processes.tree import KILL, Tree
from pytest_plan.engine.shared.run_facts import RunFacts

ALL_HOOKS = frozenset(Hook)
RETRY = "retry"  # the `ctx.reason` between two attempts
_KILL_SECONDS = 5.0  # how long SIGKILL may take to end a process tree after the time limit
_HOOK = "its cleanup hook"  # the label of the hook


class Undone:
    """The result of a cleanup.

    Attributes:
        errors: the failures.
        text: the first failure on one line; "" if there is none.
        left: the labels of the undos that were not performed.
        was_stopped: whether a call was stopped because it reached its time limit.
        was_abandoned: whether a call was abandoned because it did not stop.
        failed: the journal's numbers of the undos that failed.
        has_tree: whether a process tree could not be ended.
    """

    __slots__ = (
        "errors", "failed", "has_tree", "left", "text", "was_abandoned", "was_stopped"
    )  # fmt: skip

    def __init__(self) -> None:
        self.errors: list[StepError] = []
        self.text = ""
        self.left: list[str] = []
        self.was_stopped: bool = False
        self.was_abandoned: bool = False
        self.failed: list[int | None] = []
        self.has_tree: bool = False

    def outcome(self) -> CleanupOutcome:
        """Return how the cleanup of the step ended."""
        if self.was_abandoned or self.left:
            return CleanupOutcome.ABANDONED
        if self.was_stopped:
            return CleanupOutcome.TIMED_OUT
        return CleanupOutcome.FAILED if self.errors else CleanupOutcome.SUCCEEDED

    def may_be_gone(self) -> bool:
        """Return whether what failed concerns only what was in a lost step."""
        is_over = self.outcome() in (CleanupOutcome.FAILED, CleanupOutcome.TIMED_OUT)
        return is_over and not self.has_tree


def clean(
    step_run: StepRun, facts: RunFacts, reason: str, until: float, lost: str | None = None
) -> Flow:
    """Clean up the step, and set the outcome of its cleanup.

    Args:
        step_run: the step.
        facts: the facts about the run.
        reason: the `ctx.reason` of the hook and of deferred calls.
        until: the time on the plan's clock by which the cleanup of the whole plan must end.
        lost: the lost step that this one needs; what was in it is gone, so that undos may fail.
            None if there is none.
    """
    step_run.begin_cleanup(facts.elapsed())
    cleanup = _Cleanup(step_run, facts, reason, until)
    if step_run.cleanup_hook_is_due():
        if step_run.runs_hook_last:
            yield from cleanup.undo(ALL_HOOKS)
        yield from cleanup.run_hook()
    if len(step_run.undo) > 0:
        yield from cleanup.undo(ALL_HOOKS)
    step_run.undo.is_closed = True
    if len(step_run.undo) > 0:  # another thread has registered an undo in the meantime
        yield from cleanup.undo(ALL_HOOKS)
    if step_run.loop.is_running:
        yield from cleanup.end_loop()
    undone, gone = cleanup.undone, None
    if lost is not None and undone.may_be_gone():
        gone = f"gone with {lost!r}; its cleanup failed: {undone.text}"
        cleanup.forgive(gone)
        undone = cleanup.undone
    errors, left = tuple(undone.errors), tuple(undone.left)
    step_run.end_cleanup(undone.outcome(), facts.elapsed(), errors, left, gone)
    facts.journal.cleanup_ended(
        step_run.name,
        step_run.cleanup.outcome,
        hook_is_done=cleanup.hook_is_done,
        error=undone.text or (f"not undone: {left[0]}" if left else ""),
    )
    if facts.listeners:  # otherwise the result is not needed yet
        facts.emit(StepCleaned(step_run.result(), facts.elapsed()))


def undo_hooks(
    step_run: StepRun, facts: RunFacts, hooks: frozenset[Hook]
) -> Generator[Effect, Any, Undone]:
    """Perform the undos that `hooks` registered, so that these hooks can run again."""
    cleanup = _Cleanup(step_run, facts, RETRY, None)
    yield from cleanup.undo(hooks | {Hook.CLEANUP})
    return cleanup.undone


class _Cleanup:
    """One cleanup of one step, within its time limit."""

    def __init__(
        self, step_run: StepRun, facts: RunFacts, reason: str, until: float | None
    ) -> None:
        self.undone = Undone()
        self.hook_is_done: bool = False
        self._step_run = step_run
        self._facts = facts
        self._reason = reason
        self._clock = facts.clock
        self._journal = facts.journal
        self._has_begun = False
        self._is_refused = False  # by the guard of the journal
        # The seconds for the undos that are left when a call has used up the time limit.
        self._rest = step_run.planned.options.cleanup_timeout
        self._is_sharing = False
        self._plan_until = math.inf if until is None else until
        self._limit(self._rest, "its cleanup_timeout of {}")

    def run_hook(self) -> Generator[Effect, Any, None]:
        """Run the step's `cleanup` hook."""
        if self._is_over():
            self.undone.left.append(_HOOK)
            return
        call = hook_call(
            self._step_run,
            self._facts,
            Hook.CLEANUP,
            deadline=self._until,
            expires=self._until,
            budget=self._budget,
            reason=self._reason,
        )
        self.hook_is_done = yield from self._perform(self._begun(call), _HOOK)
        # If no undo is left, cleanup_ended() follows at once and records it.
        if self.hook_is_done and len(self._step_run.undo) > 0:
            self._journal.hook_done(self._step_run.name)

    def forgive(self, gone: str) -> None:
        """Record that nothing is left, although undos have failed."""
        self._step_run.log.write(f"{gone}\n")
        for number in self.undone.failed:
            self._journal.undone(number)
        self.hook_is_done = True
        self.undone = Undone()

    def end_loop(self) -> Generator[Effect, Any, None]:
        """End the step's event loop, and with it the tasks that are left."""
        scope = CallScope(self._step_run.name, Hook.CLEANUP, 1, self._until, self._reason)
        body = LoopEndBody(self._step_run.loop, self._clock)
        self._step_run.undo.push(Undo(Hook.CLEANUP, "the tasks of its event loop", body, scope))
        yield from self.undo(ALL_HOOKS)
        self._step_run.loop.leave()  # if it could not end in time

    def undo(self, hooks: frozenset[Hook]) -> Generator[Effect, Any, None]:
        """Perform the undos of `hooks`. After the plan's limit, only end process trees."""
        while (entry := self._step_run.undo.pop(hooks)) is not None:
            if self._is_over() and self._reason == RETRY:
                # Keep the entry, because the cleanup at the end of the run continues with it.
                self._step_run.undo.push(entry)
                self.undone.left.append(entry.label)
                return
            self._is_sharing = self._is_sharing or self._is_over()
            if not self._is_sharing:
                yield from self._undo_one(entry)
                continue
            began, share = self._clock.now(), self._rest / (len(self._step_run.undo) + 1)
            self._limit(share, "its share of the cleanup_timeout, {}")
            yield from self._undo_one(entry)
            self._rest -= min(share, self._clock.now() - began)

    def _undo_one(self, entry: Undo) -> Generator[Effect, Any, None]:
        is_done = False
        if not self._is_over():
            # The undo may use the `ctx` of its hook, as `ctx.defer(ctx.run, [...])` does.
            entry.scope.renew(Hook.CLEANUP, self._until, self._reason)
            call = Call(entry.scope, entry.body, self._step_run.log, self._until, self._budget)
            is_done = yield from self._perform(self._begun(call), entry.label)
        elif entry.tree is None or self._is_refused:
            self.undone.left.append(entry.label)
        if entry.tree is not None and not is_done and not self._is_refused:
            is_done = yield from self._kill(entry.tree, entry.label)
        if is_done:
            self._journal.undone(entry.number)
        else:
            self.undone.failed.append(entry.number)
            self.undone.has_tree = self.undone.has_tree or entry.tree is not None

    def _kill(self, tree: Tree, label: str) -> Generator[Effect, Any, bool]:
        expires = self._clock.now() + _KILL_SECONDS
        body = body_of(tree.end, self._clock, KILL, 0.0)
        scope = CallScope(self._step_run.name, Hook.CLEANUP, 1, self._until, self._reason)
        call = Call(scope, body, self._step_run.log, expires, "the time limit for SIGKILL")
        return (yield from self._perform(call, f"{label}, by SIGKILL"))

    def _begun(self, call: Call) -> Call:
        """Let the first call of a cleanup record that the cleanup has begun; guard the others."""
        if self._reason == RETRY:
            return call
        if not self._has_begun:
            self._has_begun = True
            call.before = functools.partial(self._journal.cleanup_begun, self._step_run.name)
        elif self._journal.guard is not None:
            call.before = functools.partial(self._journal.guard, self._step_run.name)
        return call

    def _limit(self, seconds: float, budget: str) -> None:
        """Set the time limit of the calls that follow, which never exceeds that of the plan."""
        until = self._clock.now() + seconds
        self._until = min(until, self._plan_until)
        self._budget = budget.format(format_duration(seconds))
        if self._plan_until < until:
            self._budget = "the cleanup limit of the plan"

    def _is_over(self) -> bool:
        return self._is_refused or self._clock.now() >= self._until

    def _perform(self, call: Call, label: str) -> Generator[Effect, Any, bool]:
        """Perform a call and record any failure; return whether the call succeeded."""
        ending: Ending = yield call
        stop = call.scope.flag.stop
        if isinstance(ending, Returned) and stop is None:
            return True
        if isinstance(ending, Refused) and isinstance(ending.error, PlanError):
            self._is_refused = True
            self.undone.left.append(label)
        if isinstance(ending, Abandoned):
            self.undone.was_abandoned = True
            self.undone.left.append(label)
            self._step_run.left_behind(ending.stack)
        if stop is not None:
            self.undone.was_stopped = True
        error, text = self._error_of(ending, stop, label)
        failure = self._step_run.as_step_error(Hook.CLEANUP, 1, error, text)
        failure.add_note(f"while undoing: {label}")
        self.undone.text = self.undone.text or text
        self.undone.errors.append(failure)
        return False

    def _error_of(self, ending: Ending, stop: Stop | None, label: str) -> tuple[BaseException, str]:
        """Return the error of a failed call, and its description on one line."""
        if stop is None:
            assert isinstance(ending, Raised)
            return ending.error, ending.text
        error = stop.error(self._step_run.name, Hook.CLEANUP, 1)
        if isinstance(ending, Raised) and isinstance(ending.error, StepInterrupted):
            error.__traceback__ = ending.error.__traceback__  # as in attempt.py
        elif isinstance(ending, Raised):
            error.__cause__ = ending.error
        return error, describe(error)
