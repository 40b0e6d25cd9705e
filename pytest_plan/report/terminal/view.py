"""The live view: lines at the bottom of a terminal about the steps that are running.

Each frame is one write. It overwrites the frame before it, and is removed when something else is
about to be written. Only the main thread draws: after an event, at most ten times a second.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.events import (
    AttemptFailed,
    CleanupBegan,
    Event,
    StepCleaned,
    StepFinished,
    StepStarted,
    Waiting,
)
from pytest_plan.engine.model.text import printable, visible
from pytest_plan.plugin.compat.pytest_internals import has_live_logs
from pytest_plan.plugin.session.session import PlanSession

_PATIENCE = 0.9  # seconds that a step must have run until it is shown
_LEAST_PAUSE = 0.1  # seconds between two frames
_ROWS_LEFT = 2  # rows of the terminal that the view leaves to others
_SMALLEST = 20, 4  # columns and rows of a terminal that can show a view
_FALLBACK = 80, 24
_UP, _TO_END_OF_LINE, _TO_END_OF_SCREEN = "\x1b[{}A", "\x1b[K", "\x1b[J"


class _Running(NamedTuple):
    """A step that is running or is being cleaned up.

    Attributes:
        since: when that began, in seconds since the run began.
        attempt: the attempt, such as `attempt 2 of 3`; empty for the first.
    """

    since: float
    attempt: str = ""


def is_possible(config: pytest.Config) -> bool:
    """Return whether nothing else than pytest writes to its terminal.

    With `-s`, `log_cli` and `--plan-follow`, other threads write while steps run.
    """
    if has_live_logs(config):
        return False
    if config.getoption("capture", "fd") != "fd" or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return sys.__stdout__ is not None and sys.__stdout__.isatty()


class LiveView:
    """Shows what is running, for how long, in which attempt, and the last line of its log.

    Args:
        plan: the plan of this process.
        write_line_end: a function that ends the line that pytest has begun, if there is one.
    """

    _write = staticmethod(os.write)  # a test may replace it

    def __init__(self, plan: PlanSession, write_line_end: Callable[[], None]) -> None:
        self._plan = plan
        self._end_line = write_line_end
        self._running: dict[str, _Running] = {}
        self._is_cleaning = False
        self._now = 0.0
        self._drawn_at = 0.0
        self._widths: list[int] = []  # of the lines that are on the terminal
        self._is_drawing = False
        self._is_paused = False
        plan.config.pluginmanager.register(self, "pytest_plan_live_view")
        plan.host.output.before_others = self.erase

    @pytest.hookimpl
    def pytest_enter_pdb(self) -> None:
        """Draw nothing while a debugger is open, which a step has opened on its own thread."""
        self._is_paused = True
        self._widths = []  # the debugger has written below them

    @pytest.hookimpl
    def pytest_leave_pdb(self) -> None:
        """Draw again."""
        self._is_paused = False

    def on_event(self, event: Event) -> None:
        """Note what an event says, and draw a frame if it is time for one."""
        self._now = max(self._now, event.at)
        match event:
            case StepStarted(step=name):
                self._running[name] = _Running(event.at)
            case AttemptFailed(step=name, attempt=attempt, attempts=attempts):
                text = f"attempt {attempt + 1} of {attempts}"
                since = self._running.get(name, _Running(event.at)).since
                self._running[name] = _Running(since, text)
            case StepFinished(result=result) | StepCleaned(result=result):
                self._running.pop(result.name, None)
            case CleanupBegan():
                self._running.clear()
            case Waiting(steps=steps, cleaning=cleaning):
                self._is_cleaning = cleaning
                old = self._running
                self._running = {
                    name: old.get(name, _Running(event.at - seconds)) for name, seconds in steps
                }
        if self._running:
            self._draw(at_once=isinstance(event, Waiting))

    def erase(self) -> None:
        """Remove the view from the terminal, if it is there."""
        if self._widths and not self._is_drawing:
            self._put(self._above() + _TO_END_OF_SCREEN)
            self._widths = []

    def _draw(self, *, at_once: bool) -> None:
        is_long = self._now - min(one.since for one in self._running.values()) >= _PATIENCE
        is_time = at_once or self._now - self._drawn_at >= _LEAST_PAUSE
        if self._is_paused or not is_long or not is_time:
            return
        if not self._plan.host.output.is_capturing:
            return
        self._is_drawing = True
        try:
            with self._plan.host.output.visible():
                if not self._widths:
                    self._end_line()
                self._frame()
        finally:
            self._is_drawing = False
        self._drawn_at = self._now

    def _frame(self) -> None:
        columns, rows = self._size()
        if columns < _SMALLEST[0] or rows < _SMALLEST[1]:
            return
        above = self._above()
        lines = [_cut(line, columns - 1) for line in self._lines(rows - _ROWS_LEFT)]
        self._put(
            above + "".join(f"{line}{_TO_END_OF_LINE}\n" for line in lines) + _TO_END_OF_SCREEN
        )
        self._widths = [_width(line) for line in lines]

    def _lines(self, most: int) -> list[str]:
        shown = list(self._running.items())
        more = len(shown) - most
        if more > 0:
            shown = shown[: most - 1]
        names = {name: self._plan.host.foreground.shown(name) for name, _ in shown}
        width = max(map(len, names.values()), default=0)
        lines = [self._line(names[name].ljust(width), name, one) for name, one in shown]
        return [*lines, f"plan: and {more + 1} more steps"] if more > 0 else lines

    def _line(self, shown: str, name: str, one: _Running) -> str:
        doing = "cleaning up" if self._is_cleaning else "running"
        took = format_duration(float(int(self._now - one.since))).replace(".00s", "s")
        took = took.replace(".0s", "s")
        log = self._plan.host.run.step_runs[name].log.glance()
        attempt = "" if self._is_cleaning else one.attempt
        parts = [doing, took, attempt, log]
        text = "  ".join(part for part in parts if part)
        return visible(self._plan.host.mask(f"plan: {shown}  {text}")).replace("\n", " ")

    def _above(self) -> str:
        """Return what moves the cursor to the first row of the view, whose lines may have wrapped.

        A terminal that has become narrower shows a line in several rows.
        """
        if not self._widths:
            return ""
        columns, _ = self._size()
        rows = sum(max(1, -(-width // max(columns, 1))) for width in self._widths)
        return "\r" + _UP.format(rows)

    def _size(self) -> tuple[int, int]:
        return _terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1, os.environ)

    def _put(self, text: str) -> None:
        """Write a frame, with one call unless the terminal takes only a part."""
        assert sys.__stdout__ is not None
        sys.__stdout__.flush()
        data = printable(text, sys.__stdout__.encoding or "utf-8").encode(
            sys.__stdout__.encoding or "utf-8", "replace"
        )
        while data:
            data = data[self._write(sys.__stdout__.fileno(), data) :]


def _terminal_size(file: int, variables: Mapping[str, str]) -> tuple[int, int]:
    """Return the columns and rows of a terminal; of one that does not know, those of a variable."""
    try:
        columns, rows = os.get_terminal_size(file)
    except OSError:
        columns, rows = 0, 0

    def told(name: str, default: int) -> int:
        text = variables.get(name, "")
        return int(text) if text.isdecimal() and int(text) else default

    return columns or told("COLUMNS", _FALLBACK[0]), rows or told("LINES", _FALLBACK[1])


def _cut(text: str, columns: int) -> str:
    """Return as much of a text as fits into so many columns."""
    if len(text) * 2 <= columns or _width(text) <= columns:
        return text
    width = 0
    for index, character in enumerate(text):
        width += _width(character)
        if width >= columns:
            return f"{text[:index]}\u2026"
    return text


def _width(text: str) -> int:
    """Return the number of columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF")
        for one in text
    )
