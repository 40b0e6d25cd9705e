"""Enforces the plan's limit while tests run: a session timeout that also ends a hanging test.

pytest-timeout checks its session timeout only between tests, and with a clock that a test may have
frozen. Here, a thread watches the time. When the limit is reached, the thread sends a signal to the
main thread (never SIGALRM, which pytest-timeout uses), and the signal handler raises an exception
in the running test, but only during the test's setup, call and teardown.

With pytest-forked, these phases run in a forked copy of the process, which gets its own thread.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

import pytest

from pytest_plan.engine.model.clock import Flag
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.processes.copies import call_after_forks, getpid
from pytest_plan.plugin.compat import timeout_internals
from pytest_plan.plugin.compat.pytest_internals import warn

_POLL = 0.5  # seconds between checks of the remaining time, which a debugger may have paused
_PATIENCE = 1.0  # seconds that a test may take to end after each interruption
_INTERRUPTIONS = 2
_COPY_PATIENCE = 2.0  # seconds more that the copy of the process that runs the test may take


class Limit:
    """Enforces the limit on the tests of one process.

    Args:
        config: the config of this process.
        seconds: the whole limit, in seconds, for messages; None means no limit.
        stuck: a function that the watching thread calls with a test that did not end when
            interrupted.
        is_blocked: a function that returns whether the plan blocks or skips a test.

    Attributes:
        reason: the error message of a test that the limit ends.
    """

    def __init__(
        self,
        config: pytest.Config,
        seconds: float | None,
        stuck: Callable[[pytest.Item], None],
        is_blocked: Callable[[pytest.Item], bool],
    ) -> None:
        self._config = config
        self._stuck = stuck
        self._is_blocked = is_blocked
        self._remaining: Callable[[], float | None] = lambda: None
        self._done = Flag()
        self.reason = f"the plan's limit of {format_duration(seconds or 0.0)} has passed"
        # The test that may be interrupted now, or None outside the phases of a test. Only the main
        # thread writes this attribute; the watching thread and the signal handler read it.
        self._running: pytest.Item | None = None
        self._item: pytest.Item | None = None  # the test between its start and its last report
        self._copied: pytest.Item | None = None  # the test that a copy of this process runs
        self._process = 0  # the process that the thread watches
        self._signal: int | None = None
        self._before: Any = None

    def start(self, remaining: Callable[[], float | None]) -> None:
        """Start watching the time.

        Args:
            remaining: a function that returns the seconds left until the limit, or None if there is
                no limit.
        """
        if remaining() is None:
            return
        self._remaining = remaining
        self._signal = _free_signal()
        if self._signal is not None:  # otherwise a test that hangs is only reported as stuck
            self._before = signal.signal(self._signal, self._handle)
        call_after_forks(self._note_fork)
        self._begin_watch(self._stuck)

    def stop(self) -> None:
        """Stop watching and restore the previous signal handler."""
        self._done.set()
        if self._signal is not None:
            signal.signal(self._signal, self._before)
            self._signal = None

    def has_passed(self) -> bool:
        """Return whether the limit has been reached, so that no further test may begin."""
        remaining = self._remaining()
        return remaining is not None and remaining <= 0

    def end_if_passed(self, session: pytest.Session) -> None:
        """End the session if the limit has been reached.

        Raises:
            pytest.Session.Failed: it has.
        """
        if self.has_passed():
            session.shouldfail = self.reason
            raise session.Failed(self.reason)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run no further test once the limit has been reached.

        The gate must be registered after this object, so that it waits for the plan first: in a
        worker, the limit is unknown until then.
        """
        if self.has_passed() and self._is_blocked(item):
            return (yield)  # it does not run, and its report says why
        self.end_if_passed(item.session)
        self._item = item
        try:
            result = yield
        finally:
            self._item = self._copied = None
        if self.has_passed() and not self._is_blocked(item):
            item.session.shouldfail = self.reason
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        """Allow interruptions during setup."""
        __tracebackhide__ = True
        return (yield from self._armed(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        """Allow interruptions during the call."""
        __tracebackhide__ = True
        return (yield from self._armed(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        """Allow interruptions during teardown."""
        __tracebackhide__ = True
        return (yield from self._armed(item))

    def _armed(self, item: pytest.Item) -> Generator[None]:
        __tracebackhide__ = True
        if self._process and self._process != getpid():  # a forked copy does not have the thread
            self._begin_watch(_end_copy)
        self._running = item
        try:
            return (yield)
        finally:
            self._running = None

    def _note_fork(self) -> None:
        if self._running is None and threading.current_thread() is threading.main_thread():
            self._copied = self._item

    def _begin_watch(self, stuck: Callable[[pytest.Item], None]) -> None:
        self._process = getpid()
        threading.Thread(target=self._watch, args=(stuck,), name="plan-limit", daemon=True).start()

    def _watch(self, stuck: Callable[[pytest.Item], None]) -> None:
        while (left := self._remaining()) is not None and left > 0:
            if self._done.wait(min(left, _POLL)):
                return
        for _ in range(_INTERRUPTIONS):
            if self._running is not None:
                self._interrupt()
            if self._done.wait(_PATIENCE):
                return
        if self._copied is not None and self._done.wait(_COPY_PATIENCE):
            return
        if (item := self._running or self._copied) is not None:
            stuck(item)

    def _interrupt(self) -> None:
        ident = threading.main_thread().ident
        if ident is not None and self._signal is not None:
            signal.pthread_kill(ident, self._signal)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        if self._running is not None:
            pytest.fail(self.reason)


def _end_copy(item: pytest.Item) -> None:
    """End this process, the copy that runs a test; the original process reports that it died."""
    os.write(2, f"{item.nodeid} did not end after the plan's limit had passed\n".encode())
    os.kill(getpid(), signal.SIGKILL)


def _free_signal() -> int | None:
    """Return a signal without a handler, or None if there is none.

    Outside the main thread, also return None, because only the main thread can set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    for name in ("SIGRTMAX", "SIGUSR2", "SIGUSR1"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            return int(number)
    return None


def warn_of_thread_method(config: pytest.Config) -> None:
    """Warn if pytest-timeout would end the process and so prevent cleanup."""
    if not timeout_internals.ends_the_process(config):
        return
    text = (
        "pytest-timeout's method 'thread' ends the process, which then cannot clean up: use "
        "--timeout-method=signal, or run the tests in a worker (-n 1)"
    )
    warn(config, text)
    # The warning is also printed now, because pytest prints no summary if the process is ended.
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"plan: {text}", yellow=True)
