"""Writes the end of the terminal output of a run: the table, what did not run, the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping
from typing import Any, Literal

import pytest

from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import StepResult
from pytest_plan.engine.model.text import printable
from pytest_plan.plugin.run.hook_caller import own_traceback
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession
from pytest_plan.report import verdict
from pytest_plan.report.terminal import failure, table
from pytest_plan.report.terminal.instances import with_shown_names

_DEFAULT_REPORTCHARS = "fE"  # pytest's default; blocked tests are listed one by one only on request


class Summary:
    """Adds the plan to pytest's terminal summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._plan: PlanSession = lookup.of(config)
        self._tests_begun = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the tests that began; a test in a crashed worker has one report, and no phase."""
        is_test = not hasattr(report, "plan_step")
        self._tests_begun += is_test and report.when not in ("call", "teardown")

    @pytest.hookimpl(specname="pytest_terminal_summary", wrapper=True, tryfirst=True)
    def pytest_terminal_summary_last(
        self, terminalreporter: pytest.TerminalReporter
    ) -> Generator[None]:
        """Write the verdict below all that others write, unless the run has succeeded."""
        if self._plan.host.has_begun and self._config.getoption("durations", None) is not None:
            terminalreporter.stats.setdefault("", []).extend(self._durations())
        yield
        if not self._plan.host.has_begun:
            return
        # Counting the tests of a large suite takes a while, and most runs have succeeded.
        if not verdict.is_success(self._plan) or terminalreporter.stats.get("blocked"):
            found = self._verdict(self._counts(terminalreporter))
            line = printable(self._plan.host.mask(found.line))
            terminalreporter.write_line(line, red=True, bold=True)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the table of the plan, then blocked tests, tests not run, and listener errors."""
        if not self._plan.host.has_begun:
            return  # a usage error stopped the run before it began
        if self._config.get_verbosity() >= 0 or self._plan.host.has_failed():
            self._table(terminalreporter)
        self._succeeded(terminalreporter)
        self._losses(terminalreporter)
        self._blocked(terminalreporter)
        self._advice(terminalreporter)
        self._not_run(terminalreporter)
        self._listener_errors(terminalreporter)

    def _table(self, reporter: pytest.TerminalReporter) -> None:
        run, shown = self._plan.host.run, self._plan.host.foreground.shown
        result = with_shown_names(run.result(), shown)
        planned = {shown(name): one.planned for name, one in run.step_runs.items()}
        ran = [step for step in result.steps.values() if step.outcome is not StepOutcome.PENDING]
        if not ran:
            return
        reporter.write_sep("=", "plan")
        for line, markup in table.lines(ran, result, planned, self._plan.early_seconds):
            reporter.write_line(printable(self._plan.host.mask(line)), **markup)

    def _succeeded(self, reporter: pytest.TerminalReporter) -> None:
        """With `-rp`, `-rP` and `-rA`, list the steps that succeeded, or show their logs."""
        wanted = set(str(self._config.option.reportchars))
        if not wanted & set("pPA"):
            return
        host = self._plan.host
        steps = [
            (name, step, printable(host.mask(f"plan step {host.foreground.shown(name)!r}")))
            for name, step in host.run.result().steps.items()
            if step.outcome is StepOutcome.SUCCEEDED and step.lost is None
        ]
        for name, _, title in steps if wanted & set("PA") else ():
            if log := failure.log_end(self._plan, name):
                reporter.write_sep("_", title, bold=True, green=True)
                reporter.write_line(printable(host.mask("\n".join(log))))
        for _, step, title in steps if wanted & set("pA") else ():
            reporter.write_line(f"SUCCEEDED {title} ({printable(host.mask(step.origin))})")

    def _durations(self) -> Iterator[pytest.TestReport]:
        """Yield reports by which `--durations` lists the steps that succeeded, and cleanups."""
        host = self._plan.host
        for step in with_shown_names(host.run.result(), host.foreground.shown).steps.values():
            if step.started is not None and step.error is None:
                yield _duration(host.mask(f"plan step {step.name!r}"), "setup", step.seconds)
            if step.cleanup.started is not None and not step.cleanup.errors:
                name = host.mask(f"plan step {step.name!r}")
                yield _duration(name, "teardown", step.cleanup.seconds)

    def _verdict(self, counts: Mapping[str, int]) -> verdict.RunVerdict:
        host = self._plan.host
        result = with_shown_names(host.run.result(), host.foreground.shown)
        return verdict.of_run(self._plan, result, counts)

    def _counts(self, reporter: pytest.TerminalReporter) -> dict[str, int]:
        stats = reporter.stats.values()
        counts = verdict.count_reports(
            report for each in stats for report in each if isinstance(report, pytest.TestReport)
        )
        counts["not_run"] = verdict.not_run(self._config, sum(counts.values()))
        return counts

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
        """Return where the step that blocked a test is declared, in parentheses.

        If the step was not to be provisioned, its declaration is not the cause.
        """
        runs = self._plan.host.run.step_runs
        steps = [runs[name] for name in report.plan_blocked if name in runs]
        tried = [step for step in steps if step.outcome is not StepOutcome.PENDING]
        origins = [step.planned.origin for step in tried]
        return f" ({', '.join(origins)})" if origins else ""

    def _advice(self, reporter: pytest.TerminalReporter) -> None:
        """Say how to try the steps that were not tried after a failure."""
        if self._plan.host.has_failed() and (advice := self._verdict({}).advice):
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


def _duration(name: str, when: Literal["setup", "teardown"], seconds: float) -> pytest.TestReport:
    location = name, None, name
    return pytest.TestReport(
        name, location, {}, "passed", None, when, duration=seconds, plan_step=name
    )


def _is_about(report: Any, steps: Collection[str]) -> bool:
    """Return whether a test was blocked by one of these steps."""
    return any(step in steps for step in getattr(report, "plan_blocked", ()))


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"
