"""Prints the logs of steps as they grow, for `--plan-follow`.

A thread writes to a duplicate of the file descriptor of standard output, which pytest's capture
does not redirect. If the terminal does not take the text, only this thread waits.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
from collections.abc import Callable
from typing import IO

import pytest

from pytest_plan.engine.model.clock import Flag, SystemClock
from pytest_plan.engine.model.events import (
    CleanupBegan,
    Event,
    PlanFinished,
    StepCleaned,
    StepFinished,
    StepStarted,
)
from pytest_plan.engine.model.text import printable
from pytest_plan.engine.shared.log import StepLog
from pytest_plan.engine.shared.program_log import next_lines
from pytest_plan.plugin.compat.report_internals import leave_progress_line
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession

_EVERY = 0.2  # seconds between two looks at the logs
_RETRY = 0.05  # seconds until a terminal that takes no text now is tried again
_PATIENCE = 2.0  # seconds that the end of the run waits until the last lines are written
_COLORS = ("cyan", "purple", "blue", "yellow", "green")


def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Event], None]:
    """Return a listener that lets the logs be followed while the run lasts."""
    return Follower(config).on_event


class Follower:
    """Follows the logs of the steps that `--plan-follow` names, from their begin to the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._plan: PlanSession = lookup.of(config)
        self._output = _Output(config)
        self._colors = itertools.cycle(_COLORS)
        self._followed: dict[str, _Followed] = {}  # by name; only the main thread adds
        self._is_over = Flag()
        self._thread: threading.Thread | None = None

    def on_event(self, event: Event) -> None:
        """Follow a step that has begun or is reused; print the last lines at the end."""
        match event:
            case StepStarted(step=name):
                self._follow(name)
            case StepFinished(result=result):
                self._follow(result.name)
                self._open_all()
            case CleanupBegan() | StepCleaned():
                self._open_all()
            case PlanFinished():
                self._end()

    def _follow(self, name: str) -> None:
        step_run = self._plan.host.run.step_runs[name]
        is_wanted = not {name, step_run.planned.template}.isdisjoint(self._plan.declared.followed)
        if not is_wanted or name in self._followed:
            return
        log = step_run.log
        prefix = self._output.colored(f"{name} | ", next(self._colors))
        self._followed = {**self._followed, name: _Followed(log, prefix)}
        if self._thread is None:
            self._output.flush()
            self._thread = threading.Thread(target=self._run, name="plan-follow", daemon=True)
            with contextlib.suppress(RuntimeError):  # without a thread, all comes at the end
                self._thread.start()

    def _open_all(self) -> None:
        # A file that is open can be read when the folder of the run has been removed.
        for followed in self._followed.values():
            with contextlib.suppress(OSError):
                followed.open()

    def _run(self) -> None:
        while not self._is_over.wait(_EVERY):
            with contextlib.suppress(Exception):  # a test may have replaced a function of `os`
                self._print(wholly=False)
        with contextlib.suppress(Exception):
            self._print(wholly=True)

    def _end(self) -> None:
        self._is_over.set()
        if self._thread is None:
            return
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)
        elif self._thread.ident is None:
            self._run()

    def _print(self, *, wholly: bool) -> None:
        mask = self._plan.host.mask
        for followed in self._followed.values():
            while text := followed.more(wholly=wholly):
                lines = mask(text.replace("\r\n", "\n")).splitlines()
                self._output.write("".join(f"{followed.prefix}{line}\n" for line in lines))


class _Followed:
    """The log of a step, and how much of it has been printed.

    Attributes:
        prefix: what precedes each line.
    """

    def __init__(self, log: StepLog, prefix: str) -> None:
        self.prefix = prefix
        self._log = log
        self._file: IO[bytes] | None = None
        self._mark = 0

    def open(self) -> IO[bytes] | None:
        """Return the private file of the log, or None if nothing was written to the log."""
        if self._file is None and self._log.source is not None:
            self._file = self._log.source.open("rb")
            self._mark = self._log.begin
        return self._file

    def more(self, *, wholly: bool) -> str:
        """Return the next lines, or "" if there are none yet."""
        if (file := self.open()) is None:
            return ""
        gain = next_lines(file, self._mark, self._log.masker, wholly=wholly)
        self._mark = gain.mark
        return gain.text


class _Output:
    """Standard output as it is while pytest captures nothing.

    Create it on the main thread while no output is captured.
    """

    _write = staticmethod(os.write)  # a test may replace it

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._stream = sys.stdout
        self._file: int | None = None
        self._is_closed = False
        with contextlib.suppress(OSError, AttributeError, ValueError):
            self._file = os.dup(self._stream.fileno())
            config.add_cleanup(self._close)

    def colored(self, text: str, color: str) -> str:
        """Return the text in a color, if pytest's terminal shows colors."""
        if self._config.pluginmanager.get_plugin("terminalreporter") is None:
            return text
        return self._config.get_terminal_writer().markup(text, **{color: True})

    def flush(self) -> None:
        """Write what others have written so far, so that it comes first."""
        with contextlib.suppress(OSError, AttributeError, ValueError):
            self._stream.flush()

    def write(self, text: str) -> None:
        """Write whole lines, below the line that pytest has begun.

        Any thread can use this method. It may block. Once the terminal is closed, it does nothing.
        """
        if self._is_closed:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        start = "\n" if leave_progress_line(self._config) else ""
        shown = printable(start + text, encoding)
        try:
            if self._file is None:
                self._stream.write(shown)
            else:
                self._write_all(self._file, shown.encode(encoding))
        except (OSError, ValueError):
            self._is_closed = True

    def _write_all(self, file: int, data: bytes) -> None:
        while data:
            try:
                data = data[self._write(file, data) :]
            except BlockingIOError:
                SystemClock.sleep(_RETRY)

    def _close(self) -> None:
        self._is_closed = True
