"""The account of a run: what every report is written from. Text alone, and no secret in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import AttemptResult, CleanupResult, StepResult

# How a test ended, the usual first; `not_run` has no test of its own.
TEST_OUTCOMES: Final = (
    "passed",
    "failed",
    "error",
    "blocked",
    "skipped",
    "xfailed",
    "xpassed",
)
BAD_TEST_OUTCOMES: Final = frozenset({"failed", "error", "blocked"})
_CLEAN: Final = (CleanupOutcome.NONE, CleanupOutcome.SUCCEEDED, CleanupOutcome.KEPT)

Mask = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class AttemptAccount:
    """One attempt of a step; times are seconds, `started` since the run began."""

    number: int
    hook: str
    started: float
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True)
class CleanupAccount:
    """The cleanup of a step; `started` is None when there was nothing to clean."""

    outcome: CleanupOutcome
    started: float | None
    seconds: float
    error: str | None

    @property
    def is_bad(self) -> bool:
        """Whether something may be left of the step."""
        return self.outcome not in _CLEAN


@dataclass(frozen=True, slots=True)
class StepAccount:
    """What a step came to.

    Attributes:
        error: what it failed with, in full; empty when it did not.
        log: the last lines of its log.
        stack: where it was stuck when it had to be abandoned; empty when it was not.
        is_critical: whether it is on the critical path of provisioning.
    """

    name: str
    outcome: StepOutcome
    reason: str | None
    needs: tuple[str, ...]
    after: tuple[str, ...]
    origin: str
    started: float | None
    seconds: float
    attempts: tuple[AttemptAccount, ...]
    attempts_allowed: int
    cleanup: CleanupAccount
    error: str = ""
    log: str = ""
    stack: str = ""
    is_critical: bool = False

    @property
    def is_bad(self) -> bool:
        """Whether the step or its cleanup went wrong, or it could not run."""
        fine = self.outcome.provides or self.outcome is StepOutcome.SKIPPED
        return not fine or self.cleanup.is_bad


@dataclass(frozen=True, slots=True)
class TestAccount:
    """What a test came to.

    Attributes:
        worker: the xdist worker that ran it, `main` without workers.
        started: seconds since the run began.
        outcome: one of `TEST_OUTCOMES`.
        message: what it failed with, on one line; empty when it did not.
    """

    __test__ = False  # its name is no promise to pytest

    node_id: str
    worker: str
    started: float
    seconds: float
    outcome: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """What a run came to.

    Attributes:
        outcome: `succeeded`, `failed` (also for a cleanup that failed), `cancelled`, `timed_out`.
        reason: why the plan stopped early, None when it did not.
        limit: the plan's limit in seconds, None without one.
        seconds: how long the run took, cleanup included.
        began_at: when the run began, in seconds since 1970 by the wall clock.
        cleanup_began: when cleanup began, None when there was none.
        steps: those that were to run, in the order of the plan.
        tests: in the order in which they began.
        not_run: how many selected tests never began, or were interrupted.
        critical_path: the steps that decided how long provisioning took, first to last.
        left: what else must be known: what was not taken back, errors in listeners.
    """

    run_id: str
    environment: str
    outcome: StepOutcome
    reason: str | None
    limit: float | None
    seconds: float
    began_at: float
    cleanup_began: float | None
    steps: tuple[StepAccount, ...]
    tests: tuple[TestAccount, ...]
    not_run: int = 0
    critical_path: tuple[str, ...] = ()
    left: tuple[str, ...] = field(default=())

    def counts(self) -> dict[str, int]:
        """Return how many tests came to each outcome, and how many were not run."""
        counted = Counter(test.outcome for test in self.tests)
        return {**{name: counted[name] for name in TEST_OUTCOMES}, "not_run": self.not_run}


def step_account(
    result: StepResult,
    *,
    mask: Mask,
    log: str,
    error: str,
    critical: Sequence[str],
) -> StepAccount:
    """Return the account of a step.

    Args:
        result: what it came to.
        mask: hides secrets.
        log: the last lines of its log.
        error: what it failed with, in full.
        critical: the steps on the critical path.
    """
    return StepAccount(
        name=result.name,
        outcome=result.outcome,
        reason=None if result.reason is None else mask(result.reason),
        needs=result.needs,
        after=result.after,
        origin=result.origin,
        started=result.started,
        seconds=result.seconds,
        attempts=tuple(_attempt(attempt, mask) for attempt in result.attempts),
        attempts_allowed=result.attempts_allowed,
        cleanup=_cleanup(result.cleanup, mask),
        error=mask(error),
        log=mask(log),
        stack=mask(result.stack),
        is_critical=len(critical) > 1 and result.name in critical,
    )


def _attempt(attempt: AttemptResult, mask: Mask) -> AttemptAccount:
    error = None if attempt.error is None else mask(describe(attempt.error))
    return AttemptAccount(attempt.number, attempt.hook, attempt.started, attempt.seconds, error)


def _cleanup(cleanup: CleanupResult, mask: Mask) -> CleanupAccount:
    texts = [error.summary for error in cleanup.errors]
    texts += [f"not undone: {left}" for left in cleanup.left]
    error = mask("; ".join(texts)) or None
    return CleanupAccount(cleanup.outcome, cleanup.started, cleanup.seconds, error)
