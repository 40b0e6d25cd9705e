"""The plan's limit while tests run: it is the session's timeout, also for a test that hangs.

pytest-timeout looks at its session timeout only between tests. Here a thread watches the time; when
it is up, the running test gets an exception in its process' main thread through a signal handler
(never SIGALRM, which pytest-timeout uses), armed only inside setup, call and teardown.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

import pytest

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.plugin.compat import timeout_internals
from pytest_plan.plugin.compat.pytest_internals import warn

_POLL = 0.5  # seconds between two looks at the remaining time: it may have stood still
_PATIENCE = 1.0  # seconds that a test has to end after each interruption
_INTERRUPTIONS = 2


class Limit:
    """Watches the time of one process, and ends its running test.

    Args:
        config: the config of this process.
        seconds: the whole limit, for messages; None without a limit.
        stuck: called in the watching thread with a test that could not be ended.
        is_blocked: whether a test does not run anyway.
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
        self._done = threading.Event()
        self.reason = f"the plan's limit of {format_duration(seconds or 0.0)} has passed"
        # Written by the main thread alone: the test that may be interrupted now, None outside
        # of its phases. The watching thread reads it, and the handler on the main thread.
        self._running: pytest.Item | None = None
        self._signal: int | None = None
        self._before: Any = None

    def start(self, remaining: Callable[[], float | None]) -> None:
        """Begin to watch; `remaining` returns the seconds that are left, None: no limit."""
        left = remaining()
        self._signal = None if left is None else _free_signal()
        if left is None or self._signal is None:
            return
        self._remaining = remaining
        self._before = signal.signal(self._signal, self._handle)
        if left > 0:  # otherwise only blocked tests are left, and each is reported
            timeout_internals.shorten_session_timeout(self._config, left)
        threading.Thread(target=self._watch, name="plan-limit", daemon=True).start()

    def stop(self) -> None:
        """End watching and put the handler back that was there before."""
        self._done.set()
        if self._signal is not None:
            signal.signal(self._signal, self._before)
            self._signal = None

    def has_passed(self) -> bool:
        """Whether no further test may begin."""
        remaining = self._remaining()
        return remaining is not None and remaining <= 0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run no further test once the limit has passed."""
        if self.has_passed():
            if self._is_blocked(item):
                return (yield)  # and told so
            item.session.shouldfail = self.reason
            raise item.session.Failed(self.reason)
        result = yield
        if self.has_passed() and not self._is_blocked(item):
            item.session.shouldfail = self.reason
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        """Setup may be interrupted."""
        __tracebackhide__ = True
        return (yield from self._armed(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        """The call may be interrupted."""
        __tracebackhide__ = True
        return (yield from self._armed(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        """Teardown may be interrupted."""
        __tracebackhide__ = True
        return (yield from self._armed(item))

    def _armed(self, item: pytest.Item) -> Generator[None]:
        __tracebackhide__ = True
        self._running = item
        try:
            return (yield)
        finally:
            self._running = None

    def _watch(self) -> None:
        while (left := self._remaining()) is not None and left > 0:
            if self._done.wait(min(left, _POLL)):
                return
        for _ in range(_INTERRUPTIONS):
            if self._running is not None:
                self._interrupt()
            if self._done.wait(_PATIENCE):
                return
        if (item := self._running) is not None:
            self._stuck(item)

    def _interrupt(self) -> None:
        ident = threading.main_thread().ident
        if ident is not None and self._signal is not None:
            signal.pthread_kill(ident, self._signal)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        if self._running is not None:
            pytest.fail(self.reason)


def _free_signal() -> int | None:
    """Return a signal that nobody handles; None where there is none or off the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None
    for name in ("SIGRTMAX", "SIGUSR2", "SIGUSR1"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            return int(number)
    return None


def warn_of_thread_method(config: pytest.Config) -> None:
    """Warn where pytest-timeout would end the process, and with it the cleanup."""
    if not timeout_internals.ends_the_process(config):
        return
    text = (
        "pytest-timeout's method 'thread' ends the process, and nothing is cleaned up then: "
        "use --timeout-method=signal, or run the tests in a worker (-n 1)"
    )
    warn(config, text)
    # Said now as well: when it comes true nobody writes a summary.
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"plan: {text}", yellow=True)
