"""Writes the terminal output of a run: live lines, the summary table, what did not run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Generator
from typing import Any

import pytest

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.events import (
    AttemptFailed,
    CleanupBegan,
    CleanupInterrupted,
    Event,
    PlanFinished,
    StepCleaned,
    StepFinished,
    StepLost,
    StopRequested,
    Waiting,
)
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import StepResult
from pytest_plan.engine.model.text import printable
from pytest_plan.plugin.compat.pytest_internals import warn
from pytest_plan.plugin.run.hook_caller import own_traceback
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession
from pytest_plan.report import verdict
from pytest_plan.report.terminal import failure, table
from pytest_plan.report.terminal.instances import with_shown_names

_DEFAULT_REPORTCHARS = "fE"  # pytest's default; blocked tests are listed one by one only on request
HEARTBEAT = 10.0  # seconds between two lines about a step that is still running

Markup = dict[str, bool]
_GOOD: Markup = {"green": True}
_BAD: Markup = {"red": True, "bold": True}
_ODD: Markup = {"yellow": True}
_MARKUP = {
    StepOutcome.SUCCEEDED: _GOOD,
    StepOutcome.REUSED: _GOOD,
    StepOutcome.FAILED: _BAD,
    StepOutcome.TIMED_OUT: _BAD,
}
_WORDS = {
    StepOutcome.SUCCEEDED: "ok",
    StepOutcome.FAILED: "FAILED",
    StepOutcome.TIMED_OUT: "TIMED OUT",
    CleanupOutcome.SUCCEEDED: "ok",
    CleanupOutcome.FAILED: "FAILED",
    CleanupOutcome.TIMED_OUT: "TIMED OUT",
    CleanupOutcome.ABANDONED: "ABANDONED",
}


def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Event], None]:
    """Return a listener to the run, and register it for pytest's terminal summary."""
    report = TerminalReport(config)
    config.pluginmanager.register(report, "pytest_plan_terminal_report")
    return report.on_event


class TerminalReport:
    """Writes the output of one run, or nothing without pytest's reporter (`-p no:terminal`)."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._plan: PlanSession = lookup.of(config)
        self._tests_begun = 0
        self._has_warned = False
        self._width: int | None = None  # of the longest name, once the run has begun
        self._mentioned: dict[str, float] = {}  # when a running step was last mentioned
        if self._plan.declared.needed == () and self._plan.declared.definition.steps:
            self._write("plan: no selected test needs a step", {})
        self._handlers: dict[type, Callable[[Any], None]] = {
            AttemptFailed: self._attempt_failed,
            StepFinished: self._step_finished,
            StepLost: self._step_lost,
            StopRequested: self._stop_requested,
            Waiting: self._waiting,
            CleanupBegan: self._cleanup_began,
            StepCleaned: self._step_cleaned,
            CleanupInterrupted: self._cleanup_interrupted,
            PlanFinished: self._plan_finished,
        }

    def on_event(self, event: Event) -> None:
        """Write a line for an event if its type has a handler."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def pytest_report_header(self) -> str:
        """Return the number of steps found so far.

        The steps of conftests in subdirectories are found later.
        """
        count = len(self._plan.declared.definition.steps)
        return f"plan: {count} step{'' if count == 1 else 's'}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the tests that began; a test in a crashed worker has one report, and no phase."""
        is_test = not hasattr(report, "plan_step")
        self._tests_begun += is_test and report.when not in ("call", "teardown")

    @pytest.hookimpl(specname="pytest_terminal_summary", wrapper=True, tryfirst=True)
    def pytest_terminal_summary_last(
        self, terminalreporter: pytest.TerminalReporter
    ) -> Generator[None]:
        """Write the verdict below all that others write, unless the run has succeeded."""
        yield
        if not self._plan.host.has_begun:
            return
        found = self._verdict(terminalreporter)
        if found.outcome is not StepOutcome.SUCCEEDED:
            line = printable(self._plan.host.mask(found.line))
            terminalreporter.write_line(line, red=True, bold=True)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the table of the plan, then blocked tests, tests not run, and listener errors."""
        if not self._plan.host.has_begun:
            return  # a usage error stopped the run before it began
        if self._verbosity() >= 0 or self._plan.host.has_failed():
            self._table(terminalreporter)
        self._losses(terminalreporter)
        self._blocked(terminalreporter)
        self._advice(terminalreporter)
        self._not_run(terminalreporter)
        self._listener_errors(terminalreporter)

    def _attempt_failed(self, event: AttemptFailed) -> None:
        text = (
            f"attempt {event.attempt} of {event.attempts} failed: {describe(event.error)}; "
            f"retrying in {format_duration(event.wait)}"
        )
        self._line(event.step, "retry", text, _ODD)

    def _step_finished(self, event: StepFinished) -> None:
        result = event.result
        self._mentioned.pop(result.name, None)
        is_bad = result.outcome.is_failure
        self._line(
            result.name,
            _word(result.outcome),
            _detail(result),
            _MARKUP.get(result.outcome, _ODD),
            is_bad=is_bad,
        )
        if result.error is not None:
            self._pause(result)
        else:  # a cancelled step has no report, but may have been abandoned
            for line in failure.stack_lines(result):
                self._write(line, _ODD, is_bad=True)

    def _step_lost(self, event: StepLost) -> None:
        result = event.result
        assert result.lost is not None
        log = self._plan.host.run.step_runs[result.name].log.existing
        where = "" if log is None else f" ({os.path.relpath(log)})"
        self._write(f"plan: {failure.lost_line(result)}{where}", _BAD, is_bad=True)

    def _stop_requested(self, event: StopRequested) -> None:
        self._write(f"plan: stopping: {event.reason}", _BAD, is_bad=True)

    def _waiting(self, event: Waiting) -> None:
        for name, seconds in event.steps:
            if event.at - self._mentioned.setdefault(name, event.at - seconds) < HEARTBEAT:
                continue
            self._mentioned[name] = event.at
            doing = "cleaning up" if event.cleaning else "running"
            self._line(name, doing, f"for {format_duration(seconds)}", {})

    def _cleanup_began(self, event: CleanupBegan) -> None:
        self._mentioned.clear()

    def _step_cleaned(self, event: StepCleaned) -> None:
        result, cleanup = event.result, event.result.cleanup
        self._mentioned.pop(result.name, None)
        is_bad = cleanup.outcome is not CleanupOutcome.SUCCEEDED
        markup = _BAD if is_bad else _GOOD
        detail = format_duration(cleanup.seconds)
        if cleanup.gone is not None:
            markup, detail = _ODD, f"{detail}  {cleanup.gone}"
        if cleanup.errors:
            first = cleanup.errors[0]
            detail += f"  {describe(first.__cause__ or first)}"
        if cleanup.left:
            detail += f"  not undone: {', '.join(cleanup.left)}"
        self._line(result.name, f"cleanup {_word(cleanup.outcome)}", detail, markup, is_bad=is_bad)
        for processes in cleanup.ended:
            self._line(result.name, "ended", f"what was still running: {processes}", _ODD)

    def _cleanup_interrupted(self, event: CleanupInterrupted) -> None:
        names = ", ".join(event.steps) or "nothing"
        self._write(f"plan: interrupted; still cleaning up: {names}", _ODD, is_bad=True)

    def _plan_finished(self, event: PlanFinished) -> None:
        for left in event.result.left:
            self._write(f"plan: {left}", _BAD, is_bad=True)

    def _line(
        self, step: str, word: str, detail: str, markup: Markup, *, is_bad: bool = False
    ) -> None:
        if self._width is None:
            shown = map(self._plan.host.foreground.shown, self._plan.host.run.step_runs)
            self._width = max(map(len, shown), default=0)
        head = f"plan: {self._plan.host.foreground.shown(step):<{self._width}}  "
        self._write(f"{word:<9} {detail}".rstrip(), markup, head=head, is_bad=is_bad)

    def _write(self, text: str, markup: Markup, *, head: str = "", is_bad: bool = False) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or (self._verbosity() < 0 and not is_bad):
            return
        writer = self._config.get_terminal_writer()
        with self._plan.host.output.visible():
            if writer.width_of_current_line:
                writer.line()
            reporter.currentfspath = None  # otherwise pytest would end the current line again
            writer.write(printable(head))
            writer.line(printable(self._plan.host.mask(text)), **markup)
            writer.flush()

    def _verbosity(self) -> int:
        return int(self._config.get_verbosity())

    def _pause(self, result: StepResult) -> None:
        if not self._plan.settings.pause_on_failure or self._has_warned:
            return
        if failure.can_pause(self._plan):
            failure.pause(self._plan, result)
        else:
            self._has_warned = True
            warn(self._config, "--plan-pause-on-failure is ignored: there is no terminal")

    def _table(self, reporter: pytest.TerminalReporter) -> None:
        run, shown = self._plan.host.run, self._plan.host.foreground.shown
        result = with_shown_names(run.result(), shown)
        planned = {shown(name): one.planned for name, one in run.step_runs.items()}
        ran = [step for step in result.steps.values() if step.outcome is not StepOutcome.PENDING]
        if not ran:
            return
        reporter.write_sep("=", "plan")
        for line, markup in table.lines(ran, result, planned):
            reporter.write_line(printable(self._plan.host.mask(line)), **markup)

    def _verdict(self, reporter: pytest.TerminalReporter) -> verdict.RunVerdict:
        host = self._plan.host
        stats = reporter.stats.values()
        counts = verdict.count_reports(
            report for each in stats for report in each if isinstance(report, pytest.TestReport)
        )
        counts["not_run"] = verdict.not_run(self._config, sum(counts.values()))
        result = with_shown_names(host.run.result(), host.foreground.shown)
        return verdict.of_run(self._plan, result, counts)

    def _not_run(self, reporter: pytest.TerminalReporter) -> None:
        session: pytest.Session | None = self._config.pluginmanager.get_plugin("session")
        if session is None or not self._plan.host.limit_has_passed():
            return
        count = session.testscollected - self._tests_begun
        if count > 0:
            tests = f"{_tests(count)} {'was' if count == 1 else 'were'}"
            reason = self._plan.host.run.result().reason
            line = self._plan.host.mask(f"{tests} not run: {reason}")
            reporter.write_line(printable(line), yellow=True)

    def _listener_errors(self, reporter: pytest.TerminalReporter) -> None:
        run = self._plan.host.run
        errors = run.result().listener_errors
        for text, exception in run.listener_exceptions.items():
            same = [error for error in errors if error.endswith(text)]
            more = f" ({len(same)} times)" if len(same) > 1 else ""
            line = f"plan: an error in a listener or hook was ignored{more}: {same[0]}"
            reporter.write_line(printable(self._plan.host.mask(line)), yellow=True)
            reporter.write_line(printable(self._plan.host.mask(own_traceback(exception))))

    def _blocked(self, reporter: pytest.TerminalReporter) -> None:
        blocked = reporter.stats.get("blocked", [])
        wanted = str(self._config.option.reportchars)
        if wanted != _DEFAULT_REPORTCHARS and set(wanted) & set("EaA"):
            for report in blocked:
                line = self._plan.host.mask(f"BLOCKED {report.nodeid} - {report.longrepr}")
                reporter.write_line(printable(line), yellow=True)
            return
        lost = {result.name for result in self._lost()}
        reasons = [
            f"{report.longrepr}{self._place(report)}"
            for report in blocked
            if not _is_about(report, lost)
        ]
        for reason, count in Counter(reasons).items():
            line = self._plan.host.mask(f"{_tests(count)} blocked: {reason}")
            reporter.write_line(printable(line), yellow=True)

    def _place(self, report: Any) -> str:
        """Return where the step that blocked a test is declared, in parentheses."""
        steps = self._plan.host.run.step_runs
        origins = [steps[name].planned.origin for name in report.plan_blocked if name in steps]
        return f" ({', '.join(origins)})" if origins else ""

    def _advice(self, reporter: pytest.TerminalReporter) -> None:
        """Say how to try the steps that were not tried after a failure."""
        if advice := self._verdict(reporter).advice:
            reporter.write_line(printable(self._plan.host.mask(advice)), yellow=True)

    def _losses(self, reporter: pytest.TerminalReporter) -> None:
        """Write for each step that was lost how many tests failed or were blocked after that."""
        for result in self._lost():
            failed = {
                report.nodeid
                for kind in ("failed", "error")
                for report in reporter.stats.get(kind, [])
                if result.name in getattr(report, "plan_lost", ())
            }
            blocked = [
                report
                for report in reporter.stats.get("blocked", [])
                if _is_about(report, {result.name})
            ]
            was = "was" if len(blocked) == 1 else "were"
            after = f"{_tests(len(failed))} failed and {len(blocked)} {was} blocked after that"
            line = self._plan.host.mask(f"plan: {failure.lost_line(result)}; {after}")
            reporter.write_line(printable(line), red=True, bold=True)

    def _lost(self) -> list[StepResult]:
        if not self._plan.host.watching.has_losses:
            return []
        results = self._plan.host.run.result().steps.values()
        return [result for result in results if result.lost is not None]


def _is_about(report: Any, steps: Collection[str]) -> bool:
    """Return whether a test was blocked by one of these steps."""
    return any(step in steps for step in getattr(report, "plan_blocked", ()))


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"


def _word(outcome: StepOutcome | CleanupOutcome) -> str:
    return _WORDS.get(outcome, outcome.value.replace("_", " "))


def _detail(result: StepResult) -> str:
    if result.outcome is StepOutcome.SUCCEEDED:
        tries = len(result.attempts)
        return format_duration(result.seconds) + (f"  attempt {tries}" if tries > 1 else "")
    took = "" if result.started is None else f"{format_duration(result.seconds)}  "
    return took + (result.reason or "")
