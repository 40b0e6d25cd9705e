"""Writes a line to the terminal when a step starts, when it takes long, and when it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

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
    StepStarted,
    StopRequested,
    Waiting,
)
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import StepResult
from pytest_plan.engine.model.text import printable
from pytest_plan.plugin.compat.pytest_internals import has_live_logs, warn
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession
from pytest_plan.report.terminal import failure
from pytest_plan.report.terminal.summary import Summary

if TYPE_CHECKING:
    from pytest_plan.report.terminal.view import LiveView

HEARTBEAT = 10.0  # seconds between two lines about a step that is still running
FIRST = 5.0  # seconds until the first of them

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
    config.pluginmanager.register(Summary(config), "pytest_plan_terminal_summary")
    return report.on_event


class TerminalReport:
    """Writes the output of one run, or nothing without pytest's reporter (`-p no:terminal`)."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._plan: PlanSession = lookup.of(config)
        self._has_warned = False
        self._width: int | None = None  # of the longest name, once the run has begun
        self._mentioned: dict[str, float] = {}  # when a running step was last mentioned
        self._starting: list[str] = []  # steps that have started and are not mentioned yet
        self._was_interrupted = False
        self._view = self._live_view()
        declared = self._plan.declared
        is_said_later = self._plan.settings.up
        if declared.needed == () and declared.definition.steps and not is_said_later:
            self._write("plan: no selected test needs a step", {})
        self._handlers: dict[type, Callable[[Any], None]] = {
            StepStarted: self._step_started,
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
        if self._view is not None:
            self._view.on_event(event)

    def _live_view(self) -> LiveView | None:
        """Return the live view, if output goes to a terminal on which there can be one."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if not getattr(reporter, "isatty", False) or self._verbosity() < 0:
            return None
        from pytest_plan.report.terminal import view  # most runs are not on a terminal

        if self._plan.settings.follow or not view.is_possible(self._config):
            return None
        return view.LiveView(self._plan, self._end_line)

    def pytest_report_header(self) -> str:
        """Return the number of steps found so far.

        The steps of conftests in subdirectories are found later.
        """
        count = len(self._plan.declared.definition.steps)
        return f"plan: {count} step{'' if count == 1 else 's'}"

    def _step_started(self, event: StepStarted) -> None:
        verbosity = self._verbosity()
        if verbosity < 0 or (verbosity == 0 and self._view is not None):
            return
        self._starting.append(event.step)
        # The line comes with the next one, or within a second: of most steps, that is when they
        # end. Switching pytest's capture off and on takes most of the time of a line.
        if self._have_others_lines:
            self._write_starts()

    @cached_property
    def _have_others_lines(self) -> bool:
        """Whether others write about a step as soon as it has started."""
        is_shown = self._config.getoption("capture", None) == "no"
        return is_shown or bool(self._plan.settings.follow) or has_live_logs(self._config)

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
            self._detail(result),
            _MARKUP.get(result.outcome, _ODD),
            is_bad=is_bad,
        )
        if result.error is not None:
            self._pause(result)
        else:  # a cancelled step has no report, but may have been abandoned
            for line in failure.stack_lines(result):
                self._write(line, _ODD, is_bad=True)

    def _detail(self, result: StepResult) -> str:
        if result.outcome is not StepOutcome.SUCCEEDED:
            took = "" if result.started is None else f"{format_duration(result.seconds)}  "
            return took + (result.reason or "")
        tries = len(result.attempts)
        attempt = f"attempt {tries}" if tries > 1 else ""
        parts = format_duration(result.seconds), attempt, self._plan.host.history.note_on(result)
        return "  ".join(filter(None, parts))

    def _step_lost(self, event: StepLost) -> None:
        result = event.result
        assert result.lost is not None
        log = self._plan.host.run.step_runs[result.name].log.existing
        where = "" if log is None else f" ({os.path.relpath(log)})"
        self._write(f"plan: {failure.lost_line(result)}{where}", _BAD, is_bad=True)

    def _stop_requested(self, event: StopRequested) -> None:
        self._write(f"plan: stopping: {event.reason}", _BAD, is_bad=True)

    def _waiting(self, event: Waiting) -> None:
        if self._starting:
            self._write_starts()
        if self._view is not None and self._plan.host.output.is_capturing:
            return  # it shows them, unless tests run meanwhile
        for name, seconds in event.steps:
            last = self._mentioned.get(name)
            if (seconds < FIRST) if last is None else (event.at - last < HEARTBEAT):
                continue
            self._mentioned[name] = event.at
            doing = "cleaning up" if event.cleaning else "running"
            self._line(name, doing, f"for {format_duration(seconds)}", {})

    def _cleanup_began(self, event: CleanupBegan) -> None:
        self._mentioned.clear()
        if not event.steps or not self._plan.host.signals.received:
            return
        runs = self._plan.host.run.step_runs
        due = [name for name, step_run in runs.items() if step_run.needs_cleanup()]
        names = ", ".join(map(self._plan.host.foreground.shown, due))
        if len(due) != event.steps:  # some are kept
            names = "1 step" if event.steps == 1 else f"{event.steps} steps"
        text = f"another {self._signal()} lists what is left, and one more leaves it"
        text = f"plan: cleaning up {names}; {text} to {self._successor()}"
        self._write(text, _ODD, is_bad=True)

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
        shown = map(self._plan.host.foreground.shown, event.steps)
        names, more = ", ".join(shown) or "nothing", ""
        if event.steps and not self._was_interrupted:
            more = f"; another {self._signal()} leaves that to {self._successor()}"
        self._was_interrupted = True
        self._write(f"plan: interrupted; still cleaning up: {names}{more}", _ODD, is_bad=True)

    def _signal(self) -> str:
        received = self._plan.host.signals.received
        return "Ctrl-C" if not received or received[0] == signal.SIGINT else "signal"

    def _successor(self) -> str:
        """Return what cleans up after this process."""
        return "the reaper" if self._plan.settings.reaper else "pytest --plan-cleanup"

    def _plan_finished(self, event: PlanFinished) -> None:
        for left in event.result.left:
            self._write(f"plan: {left}", _BAD, is_bad=True)

    def _line(
        self, step: str, word: str, detail: str, markup: Markup, *, is_bad: bool = False
    ) -> None:
        text = f"{word:<9} {detail}".rstrip()
        self._write(text, markup, head=self._head(step), is_bad=is_bad)

    def _head(self, step: str) -> str:
        if self._width is None:
            shown = map(self._plan.host.foreground.shown, self._plan.host.run.step_runs)
            self._width = max(map(len, shown), default=0)
        return f"plan: {self._plan.host.foreground.shown(step):<{self._width}}  "

    def _write(self, text: str, markup: Markup, *, head: str = "", is_bad: bool = False) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or (self._verbosity() < 0 and not is_bad):
            return
        writer = self._config.get_terminal_writer()
        with self._plan.host.output.visible():
            self._end_line()
            starting, self._starting = self._starting, []
            starts = "".join(f"{self._head(step)}started\n" for step in starting)
            # One write: output of steps, which `-s` shows at any time, must not cut a line in two.
            shown = writer.markup(printable(self._plan.host.mask(text)), **markup)
            writer.write(f"{printable(starts + head)}{shown}\n", flush=True)

    def _write_starts(self) -> None:
        last = self._starting.pop()
        self._line(last, "started", "", {})

    def _end_line(self) -> None:
        """End the line that pytest has begun, if there is one."""
        writer = self._config.get_terminal_writer()
        if writer.width_of_current_line:
            writer.line()
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        reporter.currentfspath = None  # otherwise pytest would end the current line again

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


def _word(outcome: StepOutcome | CleanupOutcome) -> str:
    return _WORDS.get(outcome, outcome.value.replace("_", " "))
