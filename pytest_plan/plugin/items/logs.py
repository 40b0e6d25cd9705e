"""Adds what the logs of steps have gained during a test to the report of the test.

The report gets an ordinary section for each step, which every reporter shows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest

from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.model.text import printable
from pytest_plan.plugin.compat.report_internals import attach_to_allure, outcomes
from pytest_plan.plugin.items.verdict import Blocked

if TYPE_CHECKING:
    from pytest_plan.engine.definition.planned import PlannedStep
    from pytest_plan.engine.execution.step_run import StepRun
    from pytest_plan.engine.shared.log import StepLog

_MOST_LINES = 40  # of a step
_MOST_BYTES = 4 * 1024  # of a step
_MOST_BYTES_OF_TEST = 20 * 1024
# A title begins as pytest's, by which reporters and IDEs find captured output and its phase.
_TITLE = "Captured stdout {} (log of plan step {!r} {})"
_OURS = "(log of plan step "
_MARKS = "plan_log_marks"  # the attribute of a report whose sections another process must add


class Lines(NamedTuple):
    """What the log of a step has gained, as it may be shown.

    Attributes:
        step: the name of the step.
        text: the last lines; "" if there are none.
        mark: the mark of their end.
        path: the log itself, if there are more lines; else "".
        source: the private file of the log; None if there is none.
    """

    step: str
    text: str
    mark: int
    path: str
    source: str | None


class Logs(Protocol):
    """The logs of steps, as a process that runs tests sees them."""

    def marks(self, names: Sequence[str]) -> dict[str, int]:
        """Return the marks of the ends of these logs, in the same order."""

    def since(self, marks: Mapping[str, int]) -> list[Lines]:
        """Return what these logs have gained since these marks, in the same order."""


class RunLogs:
    """The logs of a run, in the process that runs the plan.

    Args:
        step_runs: a function that returns the steps of the run by name.
        mask: a function that masks the secrets in a text and escapes its control characters.
        folder: the folder to which shown paths are relative.
    """

    def __init__(
        self,
        step_runs: Callable[[], Mapping[str, StepRun]],
        mask: Callable[[str], str],
        folder: str | os.PathLike[str],
    ) -> None:
        self._step_runs = step_runs
        self._mask = mask
        self._folder = folder

    def marks(self, names: Sequence[str]) -> dict[str, int]:
        """Return the marks of the ends of these logs, in the same order."""
        try:
            return {log.step: log.mark() for log in self._logs(names)}
        except Exception:  # a test may have replaced functions of `os`
            return {}

    def since(self, marks: Mapping[str, int]) -> list[Lines]:
        """Return what these logs have gained since these marks, in the same order."""
        found = []
        for log in self._logs(marks):
            with contextlib.suppress(Exception):
                found.append(self._lines(log, marks[log.step]))
        return found

    def sources(self, names: Iterable[str]) -> dict[str, str | None]:
        """Return the private files of the logs of these steps and of all that they need.

        It is None for a log to which nothing was written yet.
        """
        steps = {name: step_run.planned for name, step_run in self._step_runs().items()}
        return {log.step: _source_of(log) for log in self._logs(with_needs(names, steps))}

    def _logs(self, names: Iterable[str]) -> list[StepLog]:
        step_runs = self._step_runs()
        return [step_runs[name].log for name in names if name in step_runs]

    def _lines(self, log: StepLog, mark: int) -> Lines:
        gain = log.gained(mark)
        text, is_cut = _last(self._mask(gain.text))
        path = os.path.relpath(log.path, self._folder) if gain.is_cut or is_cut else ""
        return Lines(log.step, printable(text), gain.mark, path, _source_of(log))


class LogSections:
    """Adds the sections; registered only if tests need steps.

    Args:
        config: the config of this process.
        needs: the steps that each test needs.
        steps: a function that returns all steps by name, in the order of the plan.
        logs: the logs of the steps.
        always: whether tests that pass get sections as well.
        others: whether other workers run tests at the same time.
    """

    def __init__(
        self,
        config: pytest.Config,
        needs: Mapping[pytest.Item, tuple[str, ...]],
        steps: Callable[[], Mapping[str, PlannedStep]],
        logs: Logs,
        *,
        always: bool,
        others: bool,
    ) -> None:
        self._config = config
        self._needs = needs
        self._steps = steps
        self._logs = logs
        self._always = always
        self._outcome = outcomes()
        self._when = "during this test" + (" and those of other workers" if others else "")
        self._wholly: dict[tuple[str, ...], tuple[str, ...]] = {}  # with what the steps need
        self._item: pytest.Item | None = None  # the test of the marks
        self._marks: dict[str, int] = {}
        self._left = 0  # how many bytes the test may still show

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Mark the ends of the logs, before any fixture of the test is set up."""
        self._item = item
        names = self._needs.get(item)
        self._marks = self._logs.marks(self._all(names)) if names else {}
        self._left = _MOST_BYTES_OF_TEST

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add the sections to the report of a phase, before any plugin reads the report."""
        report = yield
        # Most reports are passed, and of these only that of the call may still become a failure.
        may_show = report.outcome != "passed" or call.when == "call" or self._always
        if may_show and self._marks and item is self._item:
            self._consider(item, call, report)
        return report

    def _consider(
        self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport
    ) -> None:
        outcome = self._outcome(item, call, report)
        is_blocked = call.excinfo is not None and isinstance(call.excinfo.value, Blocked)
        if outcome == "skipped" or is_blocked:
            self._marks = {}  # its teardown shows nothing either
        elif outcome == "failed" or (self._always and call.when != "setup"):
            self._add_sections(report)

    def _add_sections(self, report: pytest.TestReport) -> None:
        try:
            found = self._logs.since(self._marks)
        except StateError:  # a forked copy of a worker cannot ask the controller
            report.__dict__[_MARKS] = dict(self._marks)
            return
        for lines in found:
            self._marks[lines.step] = lines.mark
            if not lines.text or len(lines.text) > self._left:
                continue
            self._left -= len(lines.text)
            head = f"(earlier lines are in {lines.path})\n" if lines.path else ""
            title = _TITLE.format(report.when, lines.step, self._when)
            report.sections.append((title, head + lines.text))
            if report.when != "teardown":  # Allure reads the sections of the teardown
                attach_to_allure(self._config, title, head + lines.text)

    def _all(self, names: tuple[str, ...]) -> tuple[str, ...]:
        if names not in self._wholly:
            self._wholly[names] = with_needs(names, self._steps())
        return self._wholly[names]


def _source_of(log: StepLog) -> str | None:
    return None if log.source is None else str(log.source)


class WorkerLogSections(LogSections):
    """Adds the sections in a worker, also to the reports of tests in forked copies of it."""

    _copied = ""  # the node id of the test of the marks, if it has run in a forked copy

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the sections to the report of a test that has run in a forked copy."""
        marks = report.__dict__.pop(_MARKS, None)
        if marks is None:
            return
        if self._copied != report.nodeid:
            self._copied, self._marks, self._left = report.nodeid, {}, _MOST_BYTES_OF_TEST
        self._marks = {step: max(mark, self._marks.get(step, 0)) for step, mark in marks.items()}
        self._add_sections(report)
        report.__dict__.pop(_MARKS, None)


def logs_in(report: pytest.TestReport) -> list[tuple[str, str]]:
    """Return the sections of the report of a test that show logs of steps."""
    return [section for section in report.sections if _OURS in section[0]]


def with_needs(names: Iterable[str], steps: Mapping[str, PlannedStep]) -> tuple[str, ...]:
    """Return these steps and all that they need, directly or not, in the order of the plan."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in steps and name not in found:
            found.add(name)
            waiting.extend(steps[name].needs)
    return tuple(name for name in steps if name in found)


def _last(text: str) -> tuple[str, bool]:
    """Return the last lines of a text, and whether lines are missing."""
    lines = text.splitlines()
    kept: list[str] = []
    left = _MOST_BYTES
    for line in reversed(lines[-_MOST_LINES:]):
        left -= len(line.encode("utf-8", "replace")) + 1
        if left < 0:
            break
        kept.append(line)
    if lines and not kept:  # a single line that is too long
        kept = [
            "..."
            + lines[-1].encode("utf-8", "replace")[4 - _MOST_BYTES :].decode("utf-8", "ignore")
        ]
    return "\n".join(reversed(kept)), len(kept) < len(lines)
