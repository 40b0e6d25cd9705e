"""The state of one step in a run: its outcome, attempts, value and cleanup."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest_plan.engine.calls.body import Body
from pytest_plan.engine.calls.generator import AsyncGeneratorBody, GeneratorBody
from pytest_plan.engine.calls.loop import StepLoop
from pytest_plan.engine.calls.undo import UndoStack
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.model.outcomes import (
    EXEC_HOOKS,
    CleanupOutcome,
    Hook,
    StepOutcome,
    change_cleanup,
    change_step,
)
from pytest_plan.engine.model.results import (
    AttemptResult,
    CleanupResult,
    Loss,
    StepError,
    StepResult,
    StepTimeoutError,
)
from pytest_plan.engine.shared.log import StepLog

_NOT_BEGUN = CleanupResult()
_NO_HOOKS: frozenset[Hook] = frozenset()


class StepRun:
    """The state of one step in a run. It changes only under the executor's lock.

    Only its methods change what `result` returns; each of them drops the cached result.

    Attributes:
        planned: the step.
        name: its name.
        attempts_allowed: the maximum number of attempts.
        log: its log.
        loop: its event loop, which starts with its first async hook.
        undo: its undo stack.
        outcome: its outcome so far.
        reason: why the step did not succeed; None if there is no such reason.
        error: the error with which the step failed; None if it did not fail.
        cause: the exception behind the outcome, even of a skipped or cancelled step; None if
            there is none.
        value: the last value that `exec` returned; None if there is none. The State has it only if
            the step has not failed. A hook may store another value in the State.
        attempts: the attempts that have ended.
        remembered: the hooks that succeeded and must not be repeated.
        stack: the stack of its abandoned thread; "" if no thread was abandoned.
        log_tail: the last lines of its log if the step failed, else "".
        has_run: whether any of its exec hooks may have run.
        was_refused: whether no exec hook could run, because the disk or the system failed.
        runs_hook_last: whether its `cleanup` hook runs after its undos instead of before them.
        completed: its position in the order of completion, counted from 1; 0 before it ends.
        started: start time in seconds since the run began; None if the step has not begun.
        ended: end time in seconds since the run began; None if the step has not ended.
        cleanup: the result of its cleanup so far.
        lost: how it was lost while tests ran; None if it was not. Any thread may set it, without
            the lock, and a result that is being made at that time is made again.
    """

    def __init__(self, planned: PlannedStep, log: StepLog) -> None:
        self.planned = planned
        self.name: str = planned.name
        self.attempts_allowed: int = 1 + planned.options.retries
        self.log = log
        self.loop: StepLoop = StepLoop(planned.name)
        self.undo: UndoStack = UndoStack(self.loop)
        self.outcome: StepOutcome = StepOutcome.PENDING
        self.reason: str | None = None
        self.error: StepError | None = None
        self.cause: BaseException | None = None
        self.value: Any = None
        self.attempts: tuple[AttemptResult, ...] = ()
        self.remembered: frozenset[Hook] = _NO_HOOKS
        self.stack = ""
        self.log_tail = ""
        self.has_run: bool = False
        self.was_refused: bool = False
        self.runs_hook_last: bool = False
        self.completed: int = 0
        self.started: float | None = None
        self.ended: float | None = None
        self.cleanup: CleanupResult = _NOT_BEGUN
        self.lost: Loss | None = None
        self._result: StepResult | None = None

    @property
    def has_begun(self) -> bool:
        """Whether its first attempt has begun."""
        return self.started is not None

    @property
    def has_ended(self) -> bool:
        """Whether its outcome is final."""
        return self.outcome not in (StepOutcome.PENDING, StepOutcome.RUNNING)

    @property
    def provides(self) -> bool:
        """Whether steps and tests that need the step can use it."""
        return self.outcome.provides and self.lost is None

    def restore(self, outcome: StepOutcome, completed: int, value: Any, reason: str | None) -> None:
        """Restore the state from a journal. Call this before any step of the run begins."""
        self._result = None
        self.outcome = outcome
        self.reason = reason
        self.completed = completed
        self.value = value
        self.started = self.ended = 0.0

    def begin(self, at: float) -> None:
        """Record that the first attempt has begun."""
        self._result = None
        self.outcome = change_step(self.outcome, StepOutcome.RUNNING)
        self.started = at

    def end(
        self,
        outcome: StepOutcome,
        at: float,
        reason: str | None = None,
        error: StepError | None = None,
    ) -> None:
        """Record the final outcome, and the error of a step that failed."""
        self._result = None
        self.outcome = change_step(self.outcome, outcome)
        self.reason = None if reason is None else self.log.masker.mask(reason)
        self.error = error
        self.ended = at

    def logged(self, tail: str) -> None:
        """Record the last lines of the log."""
        self._result = None
        self.log_tail = tail

    def left_behind(self, stack: str) -> None:
        """Record the stack of the first thread that was abandoned."""
        self._result = None
        self.stack = self.stack or self.log.masker.mask(stack)

    def as_step_error(self, hook: Hook, attempt: int, error: BaseException, text: str) -> StepError:
        """Return `error` as a StepError of this step; its message contains `text`."""
        if isinstance(error, StepError) and error.step == self.name:
            return error
        where = f"in {hook.value}"
        if hook is not Hook.CLEANUP:
            where += f", attempt {attempt} of {self.attempts_allowed}"
        wrapped = StepError(
            f"step {self.name!r} failed {where}: {self.log.masker.mask(text)}",
            step=self.name,
            hook=hook.value,
            attempt=attempt,
        )
        wrapped.__cause__ = error
        return wrapped

    def as_timeout_error(self, hook: Hook, attempt: int, error: BaseException) -> StepError:
        """Return the error of this step if it was stopped because the plan reached its limit."""
        wrapped = StepTimeoutError(str(error), step=self.name, hook=hook.value, attempt=attempt)
        wrapped.__cause__ = error
        return wrapped

    def hooks_to_run(self) -> list[Hook]:
        """Return the exec hooks of the next attempt."""
        return [
            hook
            for hook in EXEC_HOOKS
            if hook in self.planned.hooks and hook not in self.remembered
        ]

    def called(self, *, has_run: bool, was_refused: bool) -> None:
        """Record that a call of an exec hook has ended or was refused."""
        self.has_run = self.has_run or has_run
        self.was_refused = was_refused and not self.has_run

    def attempted(self, attempt: AttemptResult) -> None:
        """Record that an attempt has ended."""
        self._result = None
        self.attempts = (*self.attempts, attempt)

    def remember(self, hooks: Iterable[Hook]) -> None:
        """Record the hooks that succeeded in a failed attempt, unless the step repeats them."""
        if not self.planned.step.repeats_succeeded_hooks:
            self.remembered = self.remembered.union(hooks)

    def cleanup_hook_is_due(self) -> bool:
        """Return whether the `cleanup` hook must run.

        By default it runs only if the step succeeded (gsd's rule). With `cleanup_when="attempted"`
        it runs if the step has begun.
        """
        if Hook.CLEANUP not in self.planned.hooks or not self.has_begun or self.was_refused:
            return False
        attempted = self.planned.options.cleanup_when == "attempted"
        return attempted or self.outcome.provides

    def needs_cleanup(self) -> bool:
        """Return whether there is anything to undo, or an event loop to end."""
        return self.cleanup_hook_is_due() or len(self.undo) > 0 or self.loop.is_running

    def keep(self) -> None:
        """Record that the step is kept for a later run, which cannot use its event loop."""
        self._result = None
        self.loop.leave()
        outcome = change_cleanup(self.cleanup.outcome, CleanupOutcome.KEPT)
        self.cleanup = CleanupResult(outcome)

    def begin_cleanup(self, at: float) -> None:
        """Record that cleanup has begun."""
        self._result = None
        outcome = change_cleanup(self.cleanup.outcome, CleanupOutcome.PENDING)
        self.undo.ended = ()  # without what was ended between two attempts
        self.cleanup = CleanupResult(outcome, at)

    def end_cleanup(
        self,
        outcome: CleanupOutcome,
        at: float,
        errors: tuple[StepError, ...] = (),
        left: tuple[str, ...] = (),
        gone: str | None = None,
    ) -> None:
        """Record how cleanup ended."""
        self._result = None
        started = self.cleanup.started
        outcome = change_cleanup(self.cleanup.outcome, outcome)
        seconds = 0.0 if started is None else at - started
        ended = tuple(dict.fromkeys(self.undo.ended))
        self.cleanup = CleanupResult(outcome, started, seconds, errors, left, ended, gone)

    def cleanup_errors(self) -> tuple[StepError, ...]:
        """Return the failures of its cleanup, which was abandoned if there is no other one."""
        if self.cleanup.errors or self.cleanup.outcome is not CleanupOutcome.ABANDONED:
            return self.cleanup.errors
        left = "; ".join(self.cleanup.left)
        text = f"the cleanup of step {self.name!r} was abandoned; not undone: {left}"
        return (StepError(text, step=self.name, hook="cleanup", attempt=1),)

    def result(self) -> StepResult:
        """Return the result of the step so far."""
        result = self._result
        if result is None or result.lost is not self.lost:
            result = self._result = self._freeze()
        return result

    def _freeze(self) -> StepResult:
        seconds = 0.0 if self.started is None or self.ended is None else self.ended - self.started
        return StepResult(
            name=self.name,
            outcome=self.outcome,
            reason=self.reason,
            needs=self.planned.needs,
            after=self.planned.after,
            origin=self.planned.origin,
            started=self.started,
            seconds=seconds,
            attempts=self.attempts,
            attempts_allowed=self.attempts_allowed,
            error=self.error,
            log_tail=self.log_tail,
            stack=self.stack,
            cleanup=self.cleanup,
            lost=self.lost,
        )


def tail_of(body: Body) -> Body | None:
    """Return the body of the tail of a generator; None if `body` has no tail to run."""
    return body.tail if isinstance(body, (GeneratorBody, AsyncGeneratorBody)) else None
