"""Captures the output of steps and sends it to their logs, so that it never mixes with pytest's."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TextIO

import pytest

from pytest_plan.engine.model.text import printable
from pytest_plan.engine.processes.copies import getpid
from pytest_plan.engine.shared.log import StepLog, current_log
from pytest_plan.plugin.compat.pytest_internals import (
    captured_text,
    configure_log,
    has_live_logs,
    hold_streams,
)
from pytest_plan.plugin.compat.report_internals import leave_progress_line


class StepOutput:
    """Sends the `print` and `logging` output of a step's hooks to the step's log.

    It is a reentrant context manager. pytest captures other output to the standard file
    descriptors, such as that of a child process, as it does for a test. With `-s`, both are also
    shown in the terminal. Known secrets are masked in all of it, and in what other handlers make
    of log records.

    Args:
        config: the config of this process.
        mask: a function that masks the secrets in a text.

    Attributes:
        before_others: a function to call before anything is written to the terminal; it removes
            what is there only for the moment.
    """

    def __init__(self, config: pytest.Config, mask: Callable[[str], str]) -> None:
        self._config = config
        self._mask = mask
        self._handler = _LogHandler()
        self._filter = _RecordFilter(mask)
        self.before_others: Callable[[], None] = lambda: None
        self._filtered: tuple[logging.Handler, ...] = ()
        self._level: int | None = None  # the level of the root logger, if it was changed
        self._shows = shows = config.getoption("capture", "fd") == "no"
        # The routers are never replaced during the run: before Python 3.13, `print` only borrows
        # its reference to sys.stdout, and freeing the stream while a step prints causes a
        # segmentation fault (observed).
        self._routers = {name: _Router(config, mask, shows=shows) for name in ("stdout", "stderr")}
        self._depth = 0
        self._is_behind = False
        self._text = ""
        self._is_visible = False
        self._switching = threading.RLock()  # one thread at a time suspends pytest's capture

    @property
    def is_capturing(self) -> bool:
        """Whether only the plugin writes to the terminal, and nothing of pytest's is going on."""
        return self._depth > 0 and not self._is_behind

    @property
    def text(self) -> str:
        """The output that steps have produced so far outside their logs, masked."""
        return self._mask(self._text)

    @contextlib.contextmanager
    def behind(self) -> Iterator[None]:
        """Send the output of steps to their logs while this thread goes on with tests."""
        self._is_behind = True
        self._capture_logs()
        self._route()
        try:
            yield
        finally:
            self._unroute()
            self._release_logs()
            self._is_behind = False

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            if (capture := self._capture()) is not None:
                capture.resume_global_capture()
            if not self._is_behind:
                self._capture_logs()
            self._route()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._unroute()
        if not self._is_behind:
            self._release_logs()
        if (capture := self._capture()) is not None:
            capture.suspend_global_capture(in_=False)
            self._read(capture)
            self.before_others()
        if self._is_behind:
            self._route()

    def _capture_logs(self) -> None:
        root = logging.getLogger()
        self._handler.is_shown = self._shows and has_live_logs(self._config)
        self._filtered = tuple(root.handlers)
        for handler in self._filtered:
            handler.addFilter(self._filter)
        level = configure_log(self._config, self._handler)
        self._level = root.level if level is not None else None
        if level is not None:
            root.setLevel(min(root.level, level))
        root.addHandler(self._handler)

    def _release_logs(self) -> None:
        root = logging.getLogger()
        root.removeHandler(self._handler)
        if self._level is not None:
            root.setLevel(self._level)
        for handler in self._filtered:
            handler.removeFilter(self._filter)

    @contextlib.contextmanager
    def visible(self, *, keyboard: bool = False) -> Iterator[None]:
        """Let output reach the terminal within this context; `keyboard` also allows input.

        Any thread can use it. It holds back what other threads show until the context ends.
        """
        capture = self._capture() if self._depth else None
        if capture is None:
            yield
            return
        with self._switching:
            if self._is_visible:
                yield
                return
            suspend = functools.partial(capture.suspend_global_capture, in_=keyboard)
            self._switch(capture, suspend, to_terminal=True)
            self._read(capture)
            self._is_visible = True
            try:
                self.before_others()
                yield
            finally:
                self._is_visible = False
                self._switch(capture, capture.resume_global_capture, to_terminal=False)

    def _switch(self, capture: Any, switch: Callable[[], None], *, to_terminal: bool) -> None:
        """Let pytest suspend or resume capturing while steps keep printing to their logs."""
        with hold_streams(capture, self._routers) as held:
            try:
                switch()
            finally:
                for name, (terminal, captured) in held.items():
                    self._routers[name].stream = terminal if to_terminal else captured
        self._route()  # in case pytest has replaced a stream itself

    def _read(self, capture: Any) -> None:
        self._text += captured_text(capture)

    def _capture(self) -> Any:
        return self._config.pluginmanager.get_plugin("capturemanager")

    def _route(self) -> None:
        for name, router in self._routers.items():
            if getattr(sys, name) is not router:
                router.stream = getattr(sys, name)
                setattr(sys, name, router)

    def _unroute(self) -> None:
        for name, router in self._routers.items():
            if getattr(sys, name) is router:
                router.end_lines()
                setattr(sys, name, router.stream)


class _Router:
    """A text stream that sends the output of a step's hooks to the step's log.

    Args:
        config: the config of this process.
        mask: a function that masks the secrets in a text.
        shows: whether to also show this output in the terminal.

    Attributes:
        stream: the stream for all other output, and for output that is also shown.
    """

    def __init__(self, config: pytest.Config, mask: Callable[[str], str], *, shows: bool) -> None:
        self.stream: TextIO = sys.stdout
        self._config = config
        self._mask = mask
        self._shows = shows
        self._process = getpid()
        # The unfinished line of each step. Only whole lines are shown, so that they do not mix with
        # the lines of other steps or of pytest. Only one thread at a time writes for a step.
        self._partial: dict[StepLog, str] = {}

    def write(self, text: str) -> int:
        """Write to the log of the step that runs on this thread, or to the stream if none does."""
        log = current_log.get()
        if log is None:
            self.stream.write(self._mask(text))  # it may be of another thread of a step
            return len(text)
        shows = self._shows and getpid() == self._process  # that of a copy is read from the log
        log.write(text, apart=shows)
        if shows:
            whole, end, rest = (self._partial.pop(log, "") + text).rpartition("\n")
            if rest:
                self._partial[log] = rest
            self._show(log, whole + end)
        return len(text)

    def end_lines(self) -> None:
        """Show the unfinished lines."""
        for log, text in self._partial.items():
            self._show(log, f"{text}\n")
        self._partial.clear()

    def _show(self, log: StepLog, text: str) -> None:
        # The log has the exact text. A character that the terminal cannot show must not fail the
        # step.
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        if not text:
            return
        name, lines = self._mask(log.step), self._mask(text).removesuffix("\n").split("\n")
        shown = "".join(f"{name} | {line}\n" for line in lines)
        if leave_progress_line(self._config):
            shown = f"\n{shown}"
        self.stream.write(printable(shown, encoding))
        self.stream.flush()  # others write below it without this stream

    def writelines(self, lines: list[str]) -> None:
        """Write each of `lines` unchanged."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def current_step() -> str | None:
    """Return the name of the step that runs on this thread; None if none does."""
    log = current_log.get()
    return None if log is None else log.step


class _LogHandler(logging.Handler):
    """Sends log records of a step's hooks to the step's log.

    Attributes:
        is_shown: whether `log_cli` shows them as well, so that `-s` need not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_shown = False
        self.setFormatter(logging.Formatter("%(levelname)-8s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record to the log of the step that runs on this thread, if any."""
        log: StepLog | None = current_log.get()
        if log is not None:
            log.write(self.format(record) + "\n", apart=self.is_shown)


class _RecordFilter(logging.Filter):
    """Masks the log records of a step's hooks before other handlers, such as pytest's, get them."""

    def __init__(self, mask: Callable[[str], str]) -> None:
        super().__init__()
        self._mask = mask
        self._format = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the text of the record, if it has a secret; let every record pass."""
        if current_log.get() is None:
            return True
        with contextlib.suppress(Exception):  # the handler reports what cannot be formatted
            self._mask_text(record)
        return True

    def _mask_text(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if (masked := self._mask(text)) != text:
            record.msg, record.args = masked, ()
        if record.exc_info and not record.exc_text:
            record.exc_text = self._format.formatException(record.exc_info)
        for name in ("exc_text", "stack_info"):
            if shown := getattr(record, name):
                setattr(record, name, self._mask(shown))
