"""What has become of one step of a run so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest_plan.engine.calls.generator import GeneratorBody
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
    StepError,
    StepResult,
    StepTimeoutError,
)
from pytest_plan.engine.shared.log import StepLog

_NOT_BEGUN = CleanupResult()
_NO_HOOKS: frozenset[Hook] = frozenset()


class StepRun:
    """What has become of one step so far. Changes only under the executor's lock.

    Attributes:
        planned: the step.
        log: what it wrote.
        undo: what it must take back.
        outcome: how it stands.
        reason: why it did not succeed.
        error: what it failed with.
        cause: the user's exception behind the outcome, whatever its kind.
        value: what `exec` returned last; State has it only while the step has not failed.
        attempts: the attempts that have ended.
        remembered: hooks that succeeded and are not repeated.
        has_run: whether any of its exec hooks may have run.
        was_refused: whether none could, for the disk or the system did not allow it.
        completed: when it ended among the others, counted from 1; 0 while it has not.
    """

    def __init__(self, planned: PlannedStep, log: StepLog) -> None:
        self.planned = planned
        self.log = log
        self.undo: UndoStack = UndoStack()
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
        self.completed: int = 0
        self.started: float | None = None
        self.ended: float | None = None
        self.cleanup: CleanupResult = _NOT_BEGUN

    @property
    def name(self) -> str:
        """The step's name."""
        return self.planned.name

    @property
    def attempts_allowed(self) -> int:
        """At most so many attempts."""
        return 1 + self.planned.options.retries

    @property
    def has_begun(self) -> bool:
        """Whether any of its code may have run."""
        return self.started is not None

    @property
    def has_ended(self) -> bool:
        """Whether its outcome is final."""
        return self.outcome not in (StepOutcome.PENDING, StepOutcome.RUNNING)

    def restore(self, outcome: StepOutcome, completed: int, value: Any, reason: str | None) -> None:
        """Stand as a journal tells, before anything of the run begins."""
        self.outcome = outcome
        self.reason = reason
        self.completed = completed
        self.value = value
        self.started = self.ended = 0.0

    def begin(self, at: float) -> None:
        """Note that the first attempt begins."""
        self.outcome = change_step(self.outcome, StepOutcome.RUNNING)
        self.started = at

    def end(self, outcome: StepOutcome, at: float, reason: str | None = None) -> None:
        """Note how the step ended."""
        self.outcome = change_step(self.outcome, outcome)
        self.reason = reason
        self.ended = at

    def as_step_error(self, hook: Hook, attempt: int, error: BaseException, text: str) -> StepError:
        """Return `error`, described by `text`, as an error of this step; wrapped if needed."""
        if isinstance(error, StepError) and error.step == self.name:
            return error
        where = f"in {hook.value}"
        if hook is not Hook.CLEANUP:
            where += f", attempt {attempt} of {self.attempts_allowed}"
        wrapped = StepError(
            f"step {self.name!r} failed {where}: {text}",
            step=self.name,
            hook=hook.value,
            attempt=attempt,
        )
        wrapped.__cause__ = error
        return wrapped

    def as_timeout_error(self, hook: Hook, attempt: int, error: BaseException) -> StepError:
        """Return the error of this step for having been stopped by the plan's limit."""
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
        """Note that a call of an exec hook has ended, or could not be made."""
        self.has_run = self.has_run or has_run
        self.was_refused = was_refused and not self.has_run

    def attempted(self, attempt: AttemptResult) -> None:
        """Note that an attempt has ended."""
        self.attempts = (*self.attempts, attempt)

    def remember(self, hooks: Iterable[Hook]) -> None:
        """Note that these succeeded in an attempt that failed: not every kind repeats them."""
        if not self.planned.step.repeats_succeeded_hooks:
            self.remembered = self.remembered.union(hooks)

    def cleanup_hook_is_due(self) -> bool:
        """Whether the `cleanup` hook must run: gsd's rule, or `cleanup_when="attempted"`."""
        if Hook.CLEANUP not in self.planned.hooks or not self.has_begun or self.was_refused:
            return False
        attempted = self.planned.options.cleanup_when == "attempted"
        return attempted or self.outcome.provides

    def needs_cleanup(self) -> bool:
        """Whether anything must be taken back."""
        return self.cleanup_hook_is_due() or len(self.undo) > 0

    def keep(self) -> None:
        """Note that the step is left as it is, for a later run."""
        outcome = change_cleanup(self.cleanup.outcome, CleanupOutcome.KEPT)
        self.cleanup = CleanupResult(outcome)

    def begin_cleanup(self, at: float) -> None:
        """Note that cleanup begins."""
        outcome = change_cleanup(self.cleanup.outcome, CleanupOutcome.PENDING)
        self.cleanup = CleanupResult(outcome, at)

    def end_cleanup(
        self,
        outcome: CleanupOutcome,
        at: float,
        errors: tuple[StepError, ...] = (),
        left: tuple[str, ...] = (),
    ) -> None:
        """Note how cleanup ended."""
        started = self.cleanup.started
        outcome = change_cleanup(self.cleanup.outcome, outcome)
        seconds = 0.0 if started is None else at - started
        self.cleanup = CleanupResult(outcome, started, seconds, errors, left)

    def result(self) -> StepResult:
        """Return what has become of the step so far, frozen."""
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
        )


def tail_of(body: object) -> GeneratorBody | None:
    """Return the generator of a body that has yielded and so has a tail to run."""
    return body if isinstance(body, GeneratorBody) and body.has_yielded else None
