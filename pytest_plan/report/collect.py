"""Collects the data of a run for its reports; used only if a report is requested."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import os
import platform
import shlex
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.events import (
    CleanupBegan,
    Event,
    PlanFinished,
    StepCleaned,
    StepFinished,
)
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import PlanResult, StepError, StepResult, critical_path
from pytest_plan.engine.shared.folders import below
from pytest_plan.plugin.interface import checkout
from pytest_plan.plugin.run.files import artifacts
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession
from pytest_plan.report import verdict
from pytest_plan.report.account import Account, StepAccount, TestAccount, step_account
from pytest_plan.report.terminal import failure
from pytest_plan.report.terminal.instances import with_shown_names

_LONGEST_MESSAGE = 300  # characters
_LONGEST_TEXT = 20_000  # characters of the error of a test
_MOST_TEXTS = 500  # tests whose errors are kept whole
_MOST_ARTIFACTS = 50  # of a step
_MOST_TRACEBACKS = 5  # of earlier attempts of a step
_LARGEST_SKEW = 60.0  # seconds between the clocks of two hosts
_PACKAGES = ("pytest", "pytest-plan", "pytest-xdist")


@dataclass(slots=True)
class _Test:
    """The data that pytest has reported about a test so far; times are wall-clock times."""

    started: float
    ended: float
    stage: int
    outcome: str | None = None
    message: str = ""
    needs: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()
    text: str = ""


class Collector:
    """Listens to one run and builds its account at the end.

    Args:
        config: the config of the process that owns the plan (solo or controller).
        on_finished: a function to call with the account when the plan has finished.
    """

    def __init__(self, config: pytest.Config, on_finished: Callable[[Account], None]) -> None:
        self._plan: PlanSession = lookup.of(config)
        self._config = config
        self._on_finished = on_finished
        # Tests are timed by the wall clock, events in seconds since the run began. The smallest
        # difference between the two is the time at which the run began by the wall clock.
        self._began = math.inf
        self._cleanup_began: float | None = None
        self._logs: dict[str, str] = {}
        self._log_files: dict[str, str] = {}
        self._tests: dict[tuple[str, str], _Test] = {}
        self._texts = 0

    def on_event(self, event: Event) -> None:
        """Record what the final `PlanResult` does not contain."""
        self._began = min(self._began, SystemClock.wall() - event.at)
        match event:
            case StepFinished(result=result) | StepCleaned(result=result):
                self._read_log(result.name)
            case CleanupBegan(at=at):
                self._cleanup_began = at
            case PlanFinished(result=result):
                self._on_finished(self._account(result))
            case _:
                pass

    def _read_log(self, name: str) -> None:
        shown = self._plan.host.foreground.shown(name)
        log = self._plan.host.run.step_runs[name].log
        self._logs[shown] = log.tail()
        file = log.existing
        if file is not None and file.is_relative_to(self._plan.settings.dir):
            self._log_files[shown] = str(file)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record one phase of a test."""
        if hasattr(report, "plan_step"):
            return
        key = (report.nodeid, verdict.worker_of(report))
        test = self._tests.get(key)
        if test is None:
            start = self._real_time(report.start)
            selection = self._plan.declared.selection
            test = self._tests[key] = _Test(start, start, selection.stage(selection.opened))
        test.ended = max(test.ended, self._real_time(report.stop))
        test.needs = tuple(getattr(report, "plan_needs", test.needs))
        outcome = verdict.outcome_of(report)
        if outcome is not None and test.outcome not in verdict.BAD_TEST_OUTCOMES:
            test.outcome = outcome
            test.message = self._message(report) if report.failed else ""
            test.blocked_by = tuple(getattr(report, "plan_blocked", ()))
            if report.failed and not test.blocked_by and self._texts < _MOST_TEXTS:
                self._texts += 1
                test.text = self._text(report)

    def _real_time(self, at: float) -> float:
        """Return `at`, or the present if the clock of the test was frozen or its worker died."""
        now = SystemClock.wall()
        is_real = min(self._began, now) - _LARGEST_SKEW < at < now + _LARGEST_SKEW
        return at if is_real else now

    def _account(self, result: PlanResult) -> Account:
        plan, mask = self._plan, self._plan.host.mask
        shown = plan.host.foreground.shown
        names = {shown(name): name for name in result.steps}
        result = with_shown_names(result, shown)
        path = critical_path(result.steps)
        errors = (f"error in a listener or hook: {error}" for error in result.listener_errors)
        tests = self._finished_tests()
        return Account(
            run_id=result.run_id,
            environment=plan.handle.environment,
            verdict=self._verdict(result, tests),
            reason=None if result.reason is None else mask(result.reason),
            limit=result.limit,
            seconds=result.seconds,
            began_at=self._began,
            cleanup_began=self._cleanup_began,
            steps=tuple(
                self._step(step, path, names[name])
                for name, step in result.steps.items()
                if step.outcome is not StepOutcome.PENDING
            ),
            tests=tests,
            not_run=verdict.not_run(self._config, len(tests)),
            critical_path=path if len(path) > 1 else (),
            problems=tuple(map(mask, (*result.left, *errors))),
            command=mask(shlex.join(["pytest", *map(str, self._config.invocation_params.args)])),
            host=mask(platform.node()),
            versions=_versions(),
            commit=mask(checkout.commit(os.environ, self._config.rootpath)),
            ci_job=mask(checkout.job(os.environ)),
            share=plan.host.share,
            early_tests=plan.early_tests,
        )

    def _verdict(self, result: PlanResult, tests: tuple[TestAccount, ...]) -> verdict.RunVerdict:
        counts = verdict.count(test.outcome for test in tests)
        counts["not_run"] = verdict.not_run(self._config, len(tests))
        return verdict.of_run(self._plan, result, counts).masked(self._plan.host.mask)

    def _step(self, step: StepResult, path: tuple[str, ...], name: str) -> StepAccount:
        """Return the account of the step that has this name in the run."""
        errors = [] if step.error is None else failure.error_lines(self._config, step.error)
        for error in step.cleanup.errors:
            errors += [str(error), *failure.error_lines(self._config, error)]
        selection = self._plan.declared.selection
        return step_account(
            step,
            mask=self._plan.host.mask,
            log=self._logs.get(step.name, ""),
            log_file=self._log_files.get(step.name),
            artifacts=self._artifacts(name),
            error="\n".join(errors).rstrip(),
            tracebacks=self._tracebacks(step),
            critical=path,
            stage=selection.stage(selection.ranks.get(name)),
            template=self._plan.host.run.step_runs[name].planned.template,
        )

    def _artifacts(self, name: str) -> list[str]:
        """Return the files that a step has left for people, in a run whose folders stay."""
        plan = self._plan
        folder = plan.settings.dir / artifacts.FOLDER / plan.host.run.run_id / below(name)
        try:
            files = (path for path in sorted(folder.rglob("*")) if path.is_file())
            kept = (str(path) for path in files if path != folder / "log.txt")
            return list(itertools.islice(kept, _MOST_ARTIFACTS))
        except OSError:
            return []

    def _tracebacks(self, step: StepResult) -> dict[int, str]:
        """Return the errors of the last failed attempts; that of the step itself is known."""
        last = step.attempts[-1:] if step.error is not None else ()
        failed = [each for each in step.attempts if each.error is not None and each not in last]
        found = {}
        for attempt in failed[-_MOST_TRACEBACKS:]:
            error = StepError("", step=step.name, hook=attempt.hook, attempt=attempt.number)
            error.__cause__ = attempt.error
            lines = failure.error_lines(self._config, error)
            found[attempt.number] = "\n".join(lines).rstrip()
        return found

    def _finished_tests(self) -> tuple[TestAccount, ...]:
        mask, shown = self._plan.host.mask, self._plan.host.foreground.shown
        tests = [
            TestAccount(
                node_id=mask(node_id),
                worker=worker,
                started=max(0.0, test.started - self._began),
                seconds=test.ended - test.started,
                outcome=test.outcome,
                message=mask(test.message),
                stage=test.stage,
                needs=tuple(map(shown, test.needs)),
                blocked_by=tuple(map(shown, test.blocked_by)),
                text=test.text,
            )
            for (node_id, worker), test in self._tests.items()
            if test.outcome is not None
        ]
        return tuple(sorted(tests, key=lambda test: test.started))

    def _message(self, report: pytest.TestReport) -> str:
        crash = getattr(report.longrepr, "reprcrash", None)
        # The whole text of a blocked test is the reason why it was blocked.
        is_blocked = getattr(report, "plan_blocked", None)
        text = str(report.longrepr if crash is None or is_blocked else crash.message)
        line = " ".join(self._plan.host.mask(text).split())  # a part of a secret is not masked
        return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."

    def _text(self, report: pytest.TestReport) -> str:
        """Return the error of a test with its traceback and the output of the test."""
        parts = [
            report.longreprtext,
            *(f"--- {name} ---\n{text}" for name, text in report.sections),
        ]
        text = self._plan.host.mask("\n".join(parts))  # a part of a secret is not masked
        return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}\n(cut off)"


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **packages}
