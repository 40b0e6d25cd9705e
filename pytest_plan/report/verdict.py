"""The verdict on a run: its tests, its plan and its cleanup together. Every report asks for it."""

# Annotations are not postponed: a NamedTuple would compile each of them.
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import pytest

from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import PlanResult, StepResult
from pytest_plan.plugin.session.session import PlanSession

# The outcomes of a test in the order in which reports list them.
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
SOLO: Final = "main"  # the name of the worker in a run without xdist workers
_WORST_FIRST = sorted(TEST_OUTCOMES, key=lambda outcome: outcome not in BAD_TEST_OUTCOMES)
_MORE = ("not_run", "error in collection", "errors in collection")
_CLEAN = (CleanupOutcome.NONE, CleanupOutcome.SUCCEEDED, CleanupOutcome.KEPT)
_UNCLEAN = {
    CleanupOutcome.PENDING: "is not complete",
    CleanupOutcome.FAILED: "failed",
    CleanupOutcome.TIMED_OUT: "timed out",
    CleanupOutcome.ABANDONED: "was abandoned",
}
_MOST_NAMED = 3  # steps that a sentence names


class RunVerdict(NamedTuple):
    """How a run has ended.

    Attributes:
        outcome: of the tests, the plan and the cleanup together: `succeeded`, `failed`, `cancelled`
            or `timed_out`.
        plan_outcome: the same without the tests.
        tests: the number of tests with each outcome, in words.
        plan: the steps that failed or were lost, each with its place, or how many succeeded.
        cleanup: the cleanups that did not succeed, and what was not undone.
        untried: the steps that need no failed step, but were not tried after one had failed.
        reason: why the plan stopped early; None if it did not.
    """

    outcome: StepOutcome
    plan_outcome: StepOutcome
    tests: str
    plan: str
    cleanup: str
    untried: tuple[str, ...] = ()
    reason: str | None = None

    def masked(self, mask: Callable[[str], str]) -> "RunVerdict":
        """Return the verdict with its texts as they may be shown."""
        return self._replace(
            plan=mask(self.plan),
            cleanup=mask(self.cleanup),
            untried=tuple(map(mask, self.untried)),
            reason=None if self.reason is None else mask(self.reason),
        )

    @property
    def headline(self) -> str:
        """The outcome as a title: `Run failed`."""
        return f"Run {_words(self.outcome)}"

    @property
    def line(self) -> str:
        """The whole verdict on one line."""
        parts = f"Tests: {self.tests}. Plan: {self.plan}. Cleanup: {self.cleanup}."
        return f"{self.headline}. {parts}"

    @property
    def advice(self) -> str:
        """How to try the steps that were not tried; empty if there are none."""
        if not self.untried:
            return ""
        names = _listed([repr(name) for name in self.untried])
        steps, them = ("Step", "it") if len(self.untried) == 1 else ("Steps", "them")
        was = "was" if len(self.untried) == 1 else "were"
        reason = self.reason or "another step failed"
        return f"{steps} {names} {was} not tried: {reason}; --plan-continue-on-error tries {them}"


def of_run(plan: PlanSession, result: PlanResult, counts: Mapping[str, int]) -> RunVerdict:
    """Return the verdict on a run.

    Its texts may contain secrets: mask them before you show them.

    Args:
        plan: the plan of this process.
        result: the result of the plan, with the names of steps as they are shown.
        counts: the number of tests with each outcome, including `not_run`.
    """
    is_red = any(counts.get(outcome) for outcome in BAD_TEST_OUTCOMES)
    if errors := _collection_errors(plan.config):
        name = "error in collection" if errors == 1 else "errors in collection"
        counts = {**counts, name: errors}
    outcome = _of_session(plan, is_red=is_red)
    has_failed, share = plan.host.has_failed(), plan.host.share or {}
    lost = share.get("lost")
    return judge(result, counts, has_failed=has_failed, session=outcome, lost=lost)


def is_success(plan: PlanSession) -> bool:
    """Return whether the run has succeeded, without counting its tests."""
    return _of_session(plan) is StepOutcome.SUCCEEDED and not plan.host.has_failed()


def _of_session(plan: PlanSession, *, is_red: bool = False) -> StepOutcome:
    session: pytest.Session | None = plan.config.pluginmanager.get_plugin("session")
    is_red = is_red or (session is not None and session.testsfailed > 0)  # also in collection
    match plan.ended_by:
        case pytest.Session.Interrupted() if is_red:  # a KeyboardInterrupt, too
            return StepOutcome.FAILED
        case KeyboardInterrupt() | pytest.exit.Exception():
            return StepOutcome.CANCELLED
        case BaseException():
            return StepOutcome.FAILED
    return StepOutcome.FAILED if is_red else StepOutcome.SUCCEEDED


def judge(
    result: PlanResult,
    counts: Mapping[str, int],
    *,
    has_failed: bool,
    session: StepOutcome,
    lost: str | None = None,
) -> RunVerdict:
    """Return the verdict on a run.

    Args:
        result: the result of the plan.
        counts: the number of tests with each outcome, including `not_run`.
        has_failed: whether a step or a cleanup failed, or a step was lost.
        session: the outcome of the tests: `succeeded`, `failed`, or `cancelled` if they were
            interrupted.
        lost: why the environment that several runs share was lost; None if it was not.
    """
    plan = result.outcome
    if plan is StepOutcome.SUCCEEDED and has_failed:
        plan = StepOutcome.FAILED
    steps = [step for step in result.steps.values() if step.outcome is not StepOutcome.PENDING]
    return RunVerdict(
        outcome=session if plan is StepOutcome.SUCCEEDED else plan,
        plan_outcome=plan,
        tests=_tests(counts),
        plan=_plan(result, steps),
        cleanup=_cleanup(result, steps, has_failed=has_failed, lost=lost),
        untried=tuple(_untried(result.steps)),
        reason=result.reason,
    )


def outcome_of(report: pytest.TestReport) -> str | None:
    """Return the outcome that this phase gives the test, or None if the outcome is still open."""
    if getattr(report, "plan_blocked", None):
        return "blocked"
    is_expected = hasattr(report, "wasxfail")
    if report.skipped:
        return "xfailed" if is_expected else "skipped"
    if report.failed:
        return "error" if report.when in ("setup", "teardown") else "failed"
    if report.passed and report.when == "call":
        return "xpassed" if is_expected else "passed"
    return None


def worker_of(report: pytest.TestReport) -> str:
    """Return the name of the worker that ran the test."""
    node = getattr(report, "node", None)  # set by xdist
    return SOLO if node is None else str(node.gateway.id)


def count(outcomes: Iterable[str]) -> dict[str, int]:
    """Return the number of tests with each outcome."""
    counted = Counter(outcomes)
    return {name: counted[name] for name in TEST_OUTCOMES}


def count_reports(reports: Iterable[pytest.TestReport]) -> dict[str, int]:
    """Return the number of tests with each outcome, from the reports of all their phases."""
    outcomes: dict[tuple[str, str], str] = {}
    for report in reports:
        found = None if hasattr(report, "plan_step") else outcome_of(report)
        key = report.nodeid, worker_of(report)
        if found is not None and outcomes.get(key) not in BAD_TEST_OUTCOMES:
            outcomes[key] = found
    return count(outcomes.values())


def not_run(config: pytest.Config, finished: int) -> int:
    """Return how many selected tests never began or were interrupted."""
    session: pytest.Session | None = config.pluginmanager.get_plugin("session")
    return 0 if session is None else max(0, session.testscollected - finished)


def _collection_errors(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    errors = getattr(reporter, "stats", {}).get("error", ())
    return sum(isinstance(report, pytest.CollectReport) for report in errors)


def _tests(counts: Mapping[str, int]) -> str:
    shown = [(counts.get(name, 0), name) for name in (*_WORST_FIRST, *_MORE)]
    return ", ".join(f"{number:,} {_words(name)}" for number, name in shown if number) or "none ran"


def _plan(result: PlanResult, steps: Sequence[StepResult]) -> str:
    bad = [
        f"step {step.name!r} {_failure(step)} ({step.origin})"
        for step in steps
        if step.outcome.is_failure or step.lost is not None
    ]
    if result.outcome in (StepOutcome.CANCELLED, StepOutcome.TIMED_OUT):
        reason = "" if result.reason is None else f" ({result.reason})"
        bad.insert(0, f"{_words(result.outcome)}{reason}")
    if bad:
        return _listed(bad)
    if not steps:
        return "no step ran"
    (most, number), *others = Counter(step.outcome for step in steps).most_common()
    first = f"{number} step{'' if number == 1 else 's'} {_words(most)}"
    return ", ".join([first, *(f"{number} {_words(outcome)}" for outcome, number in others)])


def _failure(step: StepResult) -> str:
    return "was lost" if step.lost is not None else _words(step.outcome)


def _cleanup(
    result: PlanResult, steps: Sequence[StepResult], *, has_failed: bool, lost: str | None = None
) -> str:
    bad = [
        f"of step {step.name!r} {_UNCLEAN[step.cleanup.outcome]} ({step.origin})"
        for step in steps
        if step.cleanup.outcome not in _CLEAN
    ]
    bad += [f"not undone: {left}" for left in result.left]
    bad += [] if lost is None else [lost]
    if bad:
        return _listed(bad)
    outcomes = Counter(step.cleanup.outcome for step in steps)
    is_explained = result.outcome is not StepOutcome.SUCCEEDED or any(s.lost for s in steps)
    if has_failed and not is_explained:
        return "a step of an earlier run could not be cleaned up"
    if kept := outcomes[CleanupOutcome.KEPT]:
        return f"{kept} kept"
    return "succeeded" if outcomes[CleanupOutcome.SUCCEEDED] else "nothing to undo"


def _untried(steps: Mapping[str, StepResult]) -> Iterator[str]:
    """Yield the blocked steps that need no step that failed, directly or not."""
    for step in steps.values():
        if step.outcome is StepOutcome.BLOCKED and not _has_failed_need(step, steps):
            yield step.name


def _has_failed_need(step: StepResult, steps: Mapping[str, StepResult]) -> bool:
    due, seen = list(step.needs), set(step.needs)
    while due:
        need = steps.get(due.pop())
        if need is None:
            continue
        if need.outcome.is_failure or need.lost is not None:
            return True
        due += [name for name in need.needs if name not in seen]
        seen.update(need.needs)
    return False


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _MOST_NAMED
    return ", ".join([*texts[:_MOST_NAMED], *([f"and {more} more"] if more > 0 else ())])


def _words(name: str) -> str:
    return name.replace("_", " ")
