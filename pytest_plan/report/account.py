"""The account of a run: the plain data from which all reports are written, with secrets masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import AttemptResult, CleanupResult, Loss, StepResult
from pytest_plan.report.verdict import RunVerdict, count

_CLEAN: Final = (CleanupOutcome.NONE, CleanupOutcome.SUCCEEDED, CleanupOutcome.KEPT)

Mask = Callable[[str], str]

_ROLES = {  # in an environment that several runs share
    "owner": "the owner, which provisions the steps for all runs and cleans them up",
    "member": "a member, which uses the steps that the owner has provisioned",
    "heir": "the heir, which has cleaned up after a lost owner and then provisioned the steps",
    "caretaker": "the caretaker, which cleans up because the owner was lost",
}


@dataclass(frozen=True, slots=True)
class AttemptAccount:
    """One attempt of a step.

    Attributes:
        number: the number of the attempt, counted from 1.
        hook: the last hook that was called.
        started: when it began, in seconds since the run began.
        seconds: its duration, in seconds.
        error: the error, on one line; None if the attempt succeeded.
        traceback: the error with its traceback; empty if the step's own error has it, or there is
            none.
    """

    number: int
    hook: str
    started: float
    seconds: float
    error: str | None
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class CleanupAccount:
    """The cleanup of a step.

    Attributes:
        outcome: how it ended.
        started: when it began, in seconds since the run began; None if it did not begin.
        seconds: its duration, in seconds.
        error: its errors and what was not undone, on one line; None if there is nothing to report.
    """

    outcome: CleanupOutcome
    started: float | None
    seconds: float
    error: str | None

    @property
    def is_bad(self) -> bool:
        """Whether the cleanup may have left something behind."""
        return self.outcome not in _CLEAN


@dataclass(frozen=True, slots=True)
class LossAccount:
    """How a step was lost while tests ran.

    Attributes:
        at: when that was noticed, in seconds since the run began.
        program: the name of the program, or of the check that has failed.
        status: the exit status of the program; None if it is not known, or for a check.
        detail: what happened, on one line.
    """

    at: float
    program: str
    status: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class StepAccount:
    """The account of one step.

    Attributes:
        name: the name of the step.
        outcome: how it ended.
        reason: why it did not succeed; None if it did.
        needs: the steps that it needs.
        after: the steps that it is ordered after.
        origin: `file:line` of its declaration.
        started: when it began, in seconds since the run began; None if it did not run.
        seconds: its duration, in seconds, including retries and pause.
        attempts: every attempt, in order.
        attempts_allowed: the maximum number of attempts.
        cleanup: how its cleanup ended.
        error: its errors and those of its cleanup, with tracebacks; empty if there are none.
        log: the last lines of its log.
        log_file: the path of the whole log; None if it has none that outlives the run.
        artifacts: the paths of the files in its folder for artifacts, without its log.
        stack: the stack of its thread when it was abandoned; empty if it was not.
        is_critical: whether it is on the critical path of provisioning.
        lost: how it was lost while tests ran; None if it was not.
        stage: the number of the stage with which it begins, counted from 1.
        template: the name of the step of which it is an instance; "" means its own name.
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
    log_file: str | None = None
    artifacts: tuple[str, ...] = ()
    stack: str = ""
    is_critical: bool = False
    lost: LossAccount | None = None
    stage: int = 1
    template: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether the step failed, could not run or was lost, or its cleanup did not succeed."""
        is_fine = self.outcome.provides or self.outcome is StepOutcome.SKIPPED
        return not is_fine or self.lost is not None or self.cleanup.is_bad


@dataclass(frozen=True, slots=True)
class TestAccount:
    """The account of one test.

    Attributes:
        node_id: pytest's node id of the test.
        worker: the xdist worker that ran it; `main` if there are no workers.
        started: when it began, in seconds since the run began.
        seconds: its duration, in seconds, including fixtures.
        outcome: one of `verdict.TEST_OUTCOMES`.
        message: the error, or the reason why it was blocked, on one line; empty if there is none.
        stage: the number of its stage, counted from 1.
        needs: the steps that it needs directly.
        blocked_by: the steps that blocked it.
        text: the error with its traceback and the captured output; empty if it did not fail.
    """

    __test__ = False  # keeps pytest from collecting it

    node_id: str
    worker: str
    started: float
    seconds: float
    outcome: str
    message: str = ""
    stage: int = 1
    needs: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """The account of a whole run.

    Attributes:
        run_id: the id of the run.
        environment: the name of its environment.
        verdict: how the run has ended: its tests, its plan and its cleanup together.
        reason: why the plan stopped early; None if it did not.
        limit: the plan's limit, in seconds; None if there is none.
        seconds: the duration of the run, in seconds, including cleanup.
        began_at: when the run began, in seconds since 1970 by the wall clock.
        cleanup_began: when cleanup began, in seconds since the run began; None if it did not begin.
        steps: the steps that were selected to run, in the order of the plan.
        tests: the tests in the order in which they began.
        not_run: the number of selected tests that never began or were interrupted.
        critical_path: the steps that determined how long provisioning took, first to last.
        problems: what cleanup did not undo, and errors in listeners and hooks, one line each.
        command: the command line of the run.
        host: the name of the machine.
        versions: the versions of Python and of the packages that took part, by name.
        commit: the commit of the project; empty if it is not known.
        ci_job: the address of the CI job; empty if there is none.
        share: the facts about the environment that several runs share; None if there is none.
        early_tests: how many tests began before all steps had ended; None if no test could.
    """

    run_id: str
    environment: str
    verdict: RunVerdict
    reason: str | None
    limit: float | None
    seconds: float
    began_at: float
    cleanup_began: float | None
    steps: tuple[StepAccount, ...]
    tests: tuple[TestAccount, ...]
    not_run: int = 0
    critical_path: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    command: str = "pytest"
    host: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    ci_job: str = ""
    share: Mapping[str, Any] | None = None
    early_tests: int | None = None

    @property
    def role(self) -> str:
        """What this run is in the shared environment, for a sentence; "" if there is none."""
        role = "" if self.share is None else str(self.share["role"])
        return _ROLES.get(role, role)

    def counts(self) -> dict[str, int]:
        """Return the number of tests with each outcome, and the number not run as `not_run`."""
        return {**count(test.outcome for test in self.tests), "not_run": self.not_run}

    def counts_by_stage(self) -> list[dict[str, int]]:
        """Return the number of tests with each outcome, for each stage in order."""
        stages = [step.stage for step in self.steps] + [test.stage for test in self.tests]
        last = max(stages, default=1)
        return [
            count(test.outcome for test in self.tests if test.stage == stage)
            for stage in range(1, last + 1)
        ]

    def tests_by_worker(self) -> dict[str, list[TestAccount]]:
        """Return the tests grouped by worker; `gw2` comes before `gw10`."""
        workers: dict[str, list[TestAccount]] = {}
        for test in self.tests:
            workers.setdefault(test.worker, []).append(test)
        return dict(sorted(workers.items(), key=lambda item: (len(item[0]), item[0])))


def step_account(
    result: StepResult,
    *,
    mask: Mask,
    log: str,
    log_file: str | None = None,
    artifacts: Sequence[str] = (),
    error: str,
    tracebacks: Mapping[int, str] | None = None,
    critical: Sequence[str],
    stage: int = 1,
    template: str = "",
) -> StepAccount:
    """Return the account of a step.

    Args:
        result: the step's result.
        mask: a function that masks the secrets in a text and escapes its control characters.
        log: the last lines of the step's log.
        log_file: the path of the step's log; None if it has none that outlives the run.
        artifacts: the paths of the files in its folder for artifacts, without its log.
        error: the errors of the step and of its cleanup, with tracebacks.
        tracebacks: the errors of earlier attempts, with tracebacks, by number; None means that
            there are none.
        critical: the names of the steps on the critical path.
        stage: the number of the stage with which it begins, counted from 1.
        template: the name of the step of which it is an instance; "" means its own name.
    """
    return StepAccount(
        name=result.name,
        outcome=result.outcome,
        reason=None if result.reason is None else mask(result.reason),
        needs=result.needs,
        after=result.after,
        origin=mask(result.origin),
        started=result.started,
        seconds=result.seconds,
        attempts=tuple(
            _attempt(attempt, mask, (tracebacks or {}).get(attempt.number, ""))
            for attempt in result.attempts
        ),
        attempts_allowed=result.attempts_allowed,
        cleanup=_cleanup(result.cleanup, mask),
        error=mask(error),
        log=mask(log),
        log_file=None if log_file is None else mask(log_file),
        artifacts=tuple(map(mask, artifacts)),
        stack=mask(result.stack),
        is_critical=len(critical) > 1 and result.name in critical,
        lost=None if result.lost is None else _loss(result.lost, mask),
        stage=stage,
        template=template or result.name,
    )


def _loss(loss: Loss, mask: Mask) -> LossAccount:
    return LossAccount(loss.at, mask(loss.program), loss.status, mask(loss.detail))


def _attempt(attempt: AttemptResult, mask: Mask, traceback: str) -> AttemptAccount:
    error = None if attempt.error is None else mask(describe(attempt.error))
    return AttemptAccount(
        attempt.number, attempt.hook, attempt.started, attempt.seconds, error, mask(traceback)
    )


def _cleanup(cleanup: CleanupResult, mask: Mask) -> CleanupAccount:
    texts = [error.summary for error in cleanup.errors]
    texts += [f"not undone: {left}" for left in cleanup.left]
    error = mask("; ".join(texts)) or None
    return CleanupAccount(cleanup.outcome, cleanup.started, cleanup.seconds, error)
