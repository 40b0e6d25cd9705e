"""Reports failed steps and failed cleanups to pytest, in the form of its own test reports.

Every reporter, pytest's own included, shows them without knowing this package: a failed step as an
error at setup, a failed cleanup as an error at teardown, both with the node id of the step.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.events import (
    Event,
    PlanFinished,
    StepCleaned,
    StepFinished,
    StepLost,
)
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.engine.model.results import PlanResult, StepError, StepResult
from pytest_plan.engine.model.text import printable, visible
from pytest_plan.plugin.compat import report_internals, xdist_internals
from pytest_plan.plugin.compat.pytest_internals import mask_parts
from pytest_plan.plugin.compat.report_internals import with_crash
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.hook_caller import ERRORS
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession
from pytest_plan.report.terminal import failure

# They would remember the step as a test that has failed, and never forget it.
_MEMORIES = ("lfplugin", "stepwiseplugin")
_TERMINAL = "terminalreporter"


def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Event], None]:
    """Return a listener that collects the failures of the run; a run without any has no reports."""
    reports: list[StepReports] = []

    def on_event(event: Event) -> None:
        """Collect a failure, or the end of the run."""
        match event:
            case StepFinished(result=result) | StepLost(result=result) if _has_failed(result):
                add = StepReports.add_step
            case StepCleaned(result=result) if _is_bad(result):
                add = StepReports.add_cleanup
            case PlanFinished(result=whole):
                for each in reports:
                    each.end(whole)
                return
            case _:
                return
        if not reports:
            reports.append(StepReports(config))
            config.pluginmanager.register(reports[0], "pytest_plan_step_reports")
        add(reports[0], result)

    return on_event


class _Failure(NamedTuple):
    """A report to hand on, and the failed step of which it is; None for a cleanup or a loss."""

    report: pytest.TestReport
    step: StepResult | None = None


class StepItem(pytest.Item):
    """A failed step in the form of a test, for hooks that take a test; it is never run."""

    def runtest(self) -> None:
        """Do nothing."""


class StepReports:
    """Hands the reports of one run on to pytest; registered when the first of them exists."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._plan: PlanSession = lookup.of(config)
        self._waiting: list[_Failure] = []
        # The reports of failed steps that have no report at teardown, by the name of the step.
        self._to_close: dict[str, pytest.TestReport] = {}
        self._handed_on: pytest.TestReport | None = None
        self._is_over = False
        self._said: set[str] = set()

    def add_step(self, result: StepResult) -> None:
        """Add the report of a step that has failed or was lost."""
        report = self._to_close[result.name] = step_report(self._plan, result)
        self._waiting.append(_Failure(report, result if result.lost is None else None))

    def add_cleanup(self, result: StepResult) -> None:
        """Add the report of a cleanup that failed."""
        self._to_close.pop(result.name, None)
        self._waiting.append(_Failure(cleanup_report(self._plan, result)))

    def end(self, result: PlanResult) -> None:
        """Add a report at teardown for each failed step, after which pytest-html shows the step."""
        for name, at_setup in self._to_close.items():
            report = _report(self._plan, result.steps[name], "teardown", None, at_setup.sections)
            self._waiting.append(_Failure(report))
        self._to_close.clear()

    def hand_on(self, *, before_tests: bool) -> None:
        """Hand the waiting reports on, in order.

        Args:
            before_tests: whether tests follow, which `-x` and `--maxfail` can prevent.

        Raises:
            pytest.Session.Interrupted: enough has failed, so that no test may begin.
        """
        # A thread that ends a hanging process does so without pytest.
        if self._is_over or threading.current_thread() is not threading.main_thread():
            return
        while self._waiting:
            one = self._waiting.pop(0)
            self._tell(one.report)
            if before_tests and one.step is not None:
                self._interact(one.step, one.report)
        session: pytest.Session | None = self._config.pluginmanager.get_plugin("session")
        if before_tests and session is not None and session.shouldfail:
            is_controller = self._config.pluginmanager.has_plugin("dsession")
            stop = session.Interrupted if is_controller else session.Failed
            raise stop(session.shouldfail)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Hand the reports on before the first test.

        pytest would mistake an earlier one for an error during collection.
        """
        if self._waiting:
            self.hand_on(before_tests=True)
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Count the report without a progress letter, because the plan has its own line."""
        if report is self._handed_on and report.failed:
            return "error", "", ""
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_unconfigure(self) -> None:
        """Hand nothing on to reporters that have ended."""
        self._is_over = True

    def _tell(self, report: pytest.TestReport) -> None:
        place = {"nodeid": report.nodeid, "location": report.location}
        begins = report.when == "setup"
        self._handed_on = report
        if begins:
            self._call("pytest_runtest_logstart", self._misled(), **place)
        elif report.failed:
            report_internals.expect_teardown(self._config)
        # A step adds nothing to the progress of the tests.
        hidden: tuple[str, ...] = () if report.failed else (_TERMINAL,)
        hidden += report_internals.tell_junit(self._config, report)
        if not self._call("pytest_runtest_logreport", (*_MEMORIES, *hidden), report=report):
            self._tell_terminal(report)
        if begins:
            self._call("pytest_runtest_logfinish", self._misled(), **place)
        self._handed_on = None
        if report.failed:
            xdist_internals.count_failure(self._config, report)
            report_internals.tell_allure(self._config, report)

    def _misled(self) -> tuple[str, ...]:
        """Return the plugins that would take the step for a test; others may need the hook."""
        reporter = self._config.pluginmanager.get_plugin(_TERMINAL)
        own = (_TERMINAL,) if isinstance(reporter, pytest.TerminalReporter) else ()
        return (*own, "pytest_plan_overlap")

    def _tell_terminal(self, report: pytest.TestReport) -> None:
        """Let the terminal show a report that another plugin has kept from it by raising."""
        reporter = self._config.pluginmanager.get_plugin(_TERMINAL)
        stats: dict[str, list[object]] = getattr(reporter, "stats", {})
        if reporter is not None and not any(report in each for each in stats.values()):
            reporter.pytest_runtest_logreport(report=report)

    def _call(self, name: str, without: Sequence[str], **arguments: Any) -> bool:
        """Call a hook of all plugins but some; return whether it succeeded."""
        manager = self._config.pluginmanager
        plugins = [plugin for each in without if (plugin := manager.get_plugin(each)) is not None]
        try:
            manager.subset_hook_caller(name, plugins)(**arguments)
        except pytest.exit.Exception:
            raise
        except ERRORS as error:
            said = f"{_place_of(error)}: a plugin has raised an error in {name}: {describe(error)}"
            if said not in self._said:
                self._said.add(said)
                self._plan.host.foreground.say(said, bad=True)
            return False
        return True

    def _interact(self, result: StepResult, report: pytest.TestReport) -> None:
        """Let `--pdb`, and other plugins that look at exceptions, see that of a failed step."""
        if self._config.pluginmanager.has_plugin("dsession"):
            return  # with workers, pytest calls this hook in the workers only
        assert result.error is not None
        cause = result.error.__cause__ or result.error
        session: Any = self._config.pluginmanager.get_plugin("session")
        item = StepItem.from_parent(
            session, name=result.name, nodeid=report.nodeid, path=_file_of(self._config, result)
        )
        with failure.users_only(cause) as is_users:
            if not is_users:
                return
            call = pytest.CallInfo.from_call(functools.partial(_raise, cause), when="setup")
            self._plan.host.hold()
            try:
                self._call("pytest_exception_interact", (), node=item, call=call, report=report)
            finally:
                self._plan.host.resume()


def step_report(plan: PlanSession, result: StepResult) -> pytest.TestReport:
    """Return the report of a step that has failed or was lost."""
    error, tail = result.error, ["tests that need it and had not begun were blocked"]
    if error is None:
        error = failure.loss_error(result)
    else:
        name = plan.host.run.step_runs[result.name].planned.shared_name
        up = ("--plan-up",) if plan.settings.up else ()
        environment = plan.host.environment if up else DEFAULT_ENVIRONMENT
        again = launch.typed(plan.config, environment, *up, "--plan-until", name)
        rerun = f"To rerun only this step and its dependencies: {again}"
        where = failure.log_lines(plan, result.name)
        tail = [*_attempts(result), *failure.stack_lines(result), *where, rerun]
    longrepr = _longrepr(plan, result, error, tail)
    return _report(plan, result, "setup", longrepr, _sections(plan, result, "setup"))


def cleanup_report(plan: PlanSession, result: StepResult) -> pytest.TestReport:
    """Return the report of a cleanup that failed."""
    cleanup = result.cleanup
    tail = []
    for other in cleanup.errors[1:]:
        tail += [*_head(result, other), "", *failure.error_lines(plan.config, other)]
    tail += failure.stack_lines(result)
    if cleanup.left:
        tail.append(f"left to undo by hand: {', '.join(cleanup.left)}")
    took = format_duration(cleanup.seconds)
    tail.append(f"cleanup took {took}; other cleanups were not affected")
    error = cleanup.errors[0] if cleanup.errors else None
    longrepr = _longrepr(plan, result, error, tail)
    return _report(plan, result, "teardown", longrepr, _sections(plan, result, "teardown"))


def _report(
    plan: PlanSession,
    result: StepResult,
    when: Literal["setup", "teardown"],
    longrepr: Any,
    sections: list[tuple[str, str]],
) -> pytest.TestReport:
    name = plan.host.foreground.shown(result.name)
    title = f"plan step {name!r}"
    own = name.removeprefix(f"{_folder_of(plan, result)}/")
    line = result.origin.rpartition(":")[2]
    path = os.path.relpath(_file_of(plan.config, result), plan.config.rootpath)
    path = visible(Path(path).as_posix())
    seconds = result.seconds if when == "setup" else result.cleanup.seconds
    now = SystemClock.wall()
    report = pytest.TestReport(
        nodeid=f"{path}::{own}",
        location=(path, int(line) - 1 if line.isdecimal() else None, title),
        keywords={},
        outcome="passed" if longrepr is None else "failed",
        longrepr=longrepr,
        when=when,
        sections=sections,
        duration=seconds,
        start=now - seconds,
        stop=now,
        user_properties=[
            ("plan_step", name),
            ("plan_outcome", str(result.outcome)),
            ("plan_attempts", len(result.attempts)),
        ],
        plan_step=result.name,
    )
    report_internals.add_output(report, "".join(text for _, text in sections))
    return report


def _folder_of(plan: PlanSession, result: StepResult) -> str:
    """Return the folder in the full name of a step; "" if there is none."""
    return plan.host.run.step_runs[result.name].planned.folder


def _longrepr(
    plan: PlanSession, result: StepResult, error: StepError | None, tail: list[str]
) -> Any:
    """Return a formatted traceback of pytest between a line about the step and what to do next."""

    def clean(text: str) -> str:
        return printable(plan.host.mask(text))

    if error is None:
        error = StepError("cleanup was abandoned", step=result.name, hook="cleanup", attempt=1)
    shown, path, line, body = failure.formatted(plan.config, error), None, None, None
    if shown is None:
        shown, body = _without_traceback(error), failure.bare_lines(error)
        number = result.origin.rpartition(":")[2]
        path, line = str(_file_of(plan.config, result)), int(number) if number.isdecimal() else 1
    shown = mask_parts(with_crash(shown, path, line, error.summary), clean)
    parts = [clean("\n".join(lines)) for lines in (_head(result, error), body or (), tail)]
    shown.toterminal = functools.partial(_write, shown, *parts)
    return shown


def _write(shown: Any, head: str, body: str, tail: str, writer: Any) -> None:
    """Write a formatted traceback, or `body` in its place."""
    writer.line(head)
    if body:
        writer.line()
        for line in body.splitlines():
            writer.line(line, red=True, bold=True)
    else:
        type(shown).toterminal(shown, writer)
    writer.line()
    writer.line(tail)


def _without_traceback(error: StepError) -> Any:
    cause = error.__cause__ or error
    whole = cause.__traceback__
    try:
        raise cause
    except BaseException:
        return pytest.ExceptionInfo.from_current().getrepr(style="value")
    finally:
        cause.__traceback__ = whole


def _raise(error: BaseException) -> None:
    __tracebackhide__ = True
    raise error


def _sections(
    plan: PlanSession, result: StepResult, when: Literal["setup", "teardown"]
) -> list[tuple[str, str]]:
    """Return captured output under titles that begin as pytest's, by which reporters find it."""
    log = plan.host.run.step_runs[result.name].log.tail()
    with plan.host.output.visible():  # reads what has been captured since the last line
        other = plan.host.output.text
    found = [
        (f"Captured stdout {when} (of all steps, outside their logs)", other),
        (f"Captured stdout and log of plan step {result.name!r} (last lines)", log),
    ]
    return [(title, printable(plan.host.mask(text))) for title, text in found if text.strip()]


def _head(result: StepResult, error: StepError) -> list[str]:
    return [f"{error} ({result.origin})", *getattr(error, "__notes__", ())]


def _attempts(result: StepResult) -> Iterator[str]:
    if len(result.attempts) < 2:
        return
    yield f"attempts ({result.attempts_allowed} allowed):"
    for attempt in result.attempts:
        ended = "ok" if attempt.error is None else describe(attempt.error)
        took = format_duration(attempt.seconds)
        yield f"  {attempt.number}  {attempt.hook:<9}  {took:>7}  {ended}"


def _file_of(config: pytest.Config, result: StepResult) -> Path:
    """Return the file that declares a step."""
    return Path(config.invocation_params.dir, result.origin.rpartition(":")[0])


def _place_of(error: BaseException) -> str:
    entry = failure.frames_of(error)[-1]
    return f"{os.path.relpath(entry.tb_frame.f_code.co_filename)}:{entry.tb_lineno}"


def _has_failed(result: StepResult) -> bool:
    return result.error is not None or result.lost is not None


def _is_bad(result: StepResult) -> bool:
    return result.cleanup.outcome is not CleanupOutcome.SUCCEEDED
