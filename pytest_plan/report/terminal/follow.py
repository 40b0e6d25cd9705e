"""Prints the logs of steps as they grow, for `--plan-follow` and `-s`.

A thread writes to a duplicate of the file descriptor of standard output, which pytest's capture
does not redirect. If the terminal does not take the text, only this thread waits.

With `-s`, what steps print is shown already. The logs have the rest: the lines of `ctx.log`, log
records unless `log_cli` shows them, and the output of programs.
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
    AttemptFailed,
    CleanupBegan,
    Event,
    PlanFinished,
    StepCleaned,
    StepFinished,
    StepStarted,
)
from pytest_plan.engine.model.text import printable
from pytest_plan.engine.shared.log import StepLog
from pytest_plan.plugin.compat.report_internals import leave_progress_line
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession

_EVERY = 0.2  # seconds between two looks at the logs
_RETRY = 0.05  # seconds until a terminal that takes no text now is tried again
_PATIENCE = 2.0  # seconds that the end of the run waits until the last lines are written
_MOST = 1024 * 1024  # bytes of a log that are printed at one look without `--plan-follow`
_LEFT = 64 * 1024  # bytes that are printed if there are more
_COLORS = ("cyan", "purple", "blue", "yellow", "green")


def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Event], None]:
    """Return a listener that lets the logs be followed while the run lasts."""
    return Follower(config).on_event


class Follower:
    """Follows logs from their begin to the end: of the steps that `--plan-follow` names, or all."""

    def __init__(self, config: pytest.Config) -> None:
        self._plan: PlanSession = lookup.of(config)
        self._has_prints = config.getoption("capture", None) == "no"  # they are shown at once
        self._follows_all = self._has_prints and not self._plan.settings.follow
        self._output = _Output(config, flushes=self._has_prints)
        if self._has_prints:
            config.pluginmanager.register(self, "pytest_plan_follower")
        self._colors = itertools.cycle(_COLORS)
        self._followed: dict[str, _Followed] = {}  # by name; only the main thread adds
        self._is_over = Flag()
        self._is_paused = False
        self._printing = threading.Lock()  # one thread at a time reads the logs and prints
        self._thread: threading.Thread | None = None

    @pytest.hookimpl
    def pytest_enter_pdb(self) -> None:
        """Print nothing while a debugger waits for a command."""
        self._is_paused = True

    @pytest.hookimpl
    def pytest_leave_pdb(self) -> None:
        """Print again."""
        self._is_paused = False

    def on_event(self, event: Event) -> None:
        """Follow a step that has begun or is reused; print the last lines at the end.

        What a step has written comes before the line about its end.
        """
        match event:
            case StepStarted(step=name):
                self._follow(name)
            case AttemptFailed():
                self._print_now()
            case StepFinished(result=result):
                self._follow(result.name)
                self._open_all()
                self._print_now()
            case CleanupBegan() | StepCleaned():
                self._open_all()
                self._print_now()
            case PlanFinished():
                self._end()

    def _follow(self, name: str) -> None:
        step_run = self._plan.host.run.step_runs[name]
        is_named = not {name, step_run.planned.template}.isdisjoint(self._plan.declared.followed)
        if not (is_named or self._follows_all) or name in self._followed:
            return
        log = step_run.log
        shown = self._plan.host.foreground.shown(name) if self._follows_all else name
        prefix = self._output.colored(f"{shown} | ", next(self._colors))
        followed = _Followed(log, prefix, None if is_named else _MOST)
        self._followed = {**self._followed, name: followed}
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

    def _print_now(self) -> None:
        """With `-s`, print what there is before the main thread writes about a step."""
        if self._has_prints and self._followed:
            with contextlib.suppress(Exception):
                self._print(wholly=False)

    def _print(self, *, wholly: bool) -> None:
        if self._is_paused or not self._printing.acquire(timeout=_PATIENCE):
            return
        try:
            for followed in self._followed.values():
                self._print_one(followed, wholly=wholly)
        finally:
            self._printing.release()

    def _print_one(self, followed: _Followed, *, wholly: bool) -> None:
        mask, output = self._plan.host.mask, self._plan.host.output
        while text := followed.more(wholly=wholly):
            lines = mask(text.replace("\r\n", "\n")).splitlines()
            shown = "".join(f"{followed.prefix}{line}\n" for line in lines)
            # Other threads may be about to show something in several parts.
            with output.visible() if self._has_prints else contextlib.nullcontext():
                self._output.write(shown)


class _Followed:
    """The log of a step, and how much of it has been printed.

    Args:
        log: the log.
        prefix: what precedes each line.
        most: how many bytes may be printed at one look, before only the last are; None means all.
    """

    def __init__(self, log: StepLog, prefix: str, most: int | None) -> None:
        self.prefix = prefix
        self._log = log
        self._most = most
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
        left_out = self._leave_out(file)
        gain = self._log.following(file, self._mark, wholly=wholly)
        self._mark = gain.mark
        return left_out + gain.text

    def _leave_out(self, file: IO[bytes]) -> str:
        """Go to the last lines if there are too many, and return a line that says so."""
        size = file.seek(0, os.SEEK_END)
        if self._most is None or size - self._mark <= self._most:
            return ""
        file.seek(size - _LEFT)
        file.readline(_LEFT)  # the rest of a line
        more = file.tell() - self._mark
        self._mark += more
        return f"({more:,} bytes are not shown here)\n"


class _Output:
    """Standard output as it is while pytest captures nothing.

    Create it on the main thread while no output is captured.

    Args:
        config: the config of this process.
        flushes: whether others write to standard output at any time, so that it must be flushed.
    """

    _write = staticmethod(os.write)  # a test may replace it

    def __init__(self, config: pytest.Config, *, flushes: bool) -> None:
        self._config = config
        self._flushes = flushes
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
        if self._flushes:
            self.flush()
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
