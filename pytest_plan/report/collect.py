"""Collects what reports need while a run goes on. Not there when no report was asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pytest_plan.engine.model.events import (
    CleanupBegan,
    Event,
    PlanFinished,
    StepCleaned,
    StepFinished,
)
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import PlanResult, StepResult, critical_path
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession
from pytest_plan.report.account import Account, StepAccount, TestAccount, step_account
from pytest_plan.report.terminal import failure

ALONE = "main"  # the worker of a test, without workers
_LONGEST_MESSAGE = 300  # characters of what a test failed with


@dataclass(slots=True)
class _Test:
    """A test, as far as its reports have come in; times are those of the wall clock."""

    started: float
    ended: float
    outcome: str | None = None
    message: str = ""


class Collector:
    """Hears one run and gives its account at the end.

    Args:
        config: the config of solo or controller.
        finished: called with the account once the plan is over.
    """

    def __init__(self, config: pytest.Config, finished: Callable[[Account], None]) -> None:
        self._plan: PlanSession = lookup.of(config)
        self._config = config
        self._finished = finished
        # When the run began by the wall clock, as tests have it: the earliest that events imply.
        self._began = math.inf
        self._cleanup_began: float | None = None
        self._logs: dict[str, str] = {}
        self._tests: dict[tuple[str, str], _Test] = {}

    def hear(self, event: Event) -> None:
        """Note what only the event tells; the rest is in the result at the end."""
        self._began = min(self._began, time.time() - event.at)
        match event:
            case StepFinished(result=result) | StepCleaned(result=result):
                self._logs[result.name] = self._plan.host.run.step_runs[result.name].log.tail()
            case CleanupBegan(at=at):
                self._cleanup_began = at
            case PlanFinished(result=result):
                self._finished(self._account(result))
            case _:
                pass

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a phase of a test."""
        start = report.start or time.time()  # a crashed worker tells no time
        key = (report.nodeid, _worker(report))
        test = self._tests.get(key)
        if test is None:
            test = self._tests[key] = _Test(start, start)
        test.ended = max(test.ended, report.stop)
        outcome = _outcome(report)
        if outcome is not None and test.outcome not in ("failed", "error", "blocked"):
            test.outcome = outcome
            test.message = _message(report) if report.failed else ""

    def _account(self, result: PlanResult) -> Account:
        plan, mask = self._plan, self._plan.host.mask
        path = critical_path(result.steps)
        left = (*result.left, *(f"in a listener or hook: {e}" for e in result.listener_errors))
        ended = [noted for noted in self._tests.items() if noted[1].outcome is not None]
        tests = sorted(map(self._test, ended), key=lambda test: test.started)
        return Account(
            run_id=result.run_id,
            environment=plan.handle.environment,
            outcome=self._outcome(result),
            reason=None if result.reason is None else mask(result.reason),
            limit=result.limit,
            seconds=result.seconds,
            began_at=self._began,
            cleanup_began=self._cleanup_began,
            steps=tuple(
                self._step(step, path)
                for step in result.steps.values()
                if step.outcome is not StepOutcome.PENDING
            ),
            tests=tuple(tests),
            not_run=self._not_run(len(tests)),
            critical_path=path if len(path) > 1 else (),
            left=tuple(map(mask, left)),
        )

    def _outcome(self, result: PlanResult) -> StepOutcome:
        if result.outcome is StepOutcome.SUCCEEDED and self._plan.host.has_failed():
            return StepOutcome.FAILED
        return result.outcome

    def _step(self, step: StepResult, path: tuple[str, ...]) -> StepAccount:
        errors = [] if step.error is None else failure.error_lines(self._config, step.error)
        for error in step.cleanup.errors:
            errors += [str(error), *failure.error_lines(self._config, error)]
        return step_account(
            step,
            mask=self._plan.host.mask,
            log=self._logs.get(step.name, ""),
            error="\n".join(errors).rstrip(),
            critical=path,
        )

    def _test(self, noted: tuple[tuple[str, str], _Test]) -> TestAccount:
        (node_id, worker), test = noted
        mask = self._plan.host.mask
        return TestAccount(
            node_id=mask(node_id),
            worker=worker,
            started=max(0.0, test.started - self._began),
            seconds=test.ended - test.started,
            outcome=test.outcome or "",
            message=mask(test.message),
        )

    def _not_run(self, ended: int) -> int:
        session: pytest.Session | None = self._config.pluginmanager.get_plugin("session")
        if session is None:
            return 0
        return max(0, session.testscollected - ended)


def _worker(report: pytest.TestReport) -> str:
    node = getattr(report, "node", None)  # set by xdist
    return ALONE if node is None else str(node.gateway.id)


def _outcome(report: pytest.TestReport) -> str | None:
    """Return what this phase makes of the test; None when it decides nothing."""
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


def _message(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    if getattr(report, "plan_blocked", None):
        crash = None  # it has not failed, and the reason is all there is
    text = str(report.longrepr if crash is None else crash.message)
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."
