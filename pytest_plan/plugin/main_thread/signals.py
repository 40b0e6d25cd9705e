"""Handles SIGINT, SIGTERM and SIGHUP while there is an environment to clean up.

While the plugin's own code runs on the main thread, a handler only records the signal and stops the
plan, because an exception in the middle of, for example, `Thread.start` would lose track of the
thread. A handler raises only while pytest or a test runs. If a system lacks one of the three
signals, the others are still handled.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from pytest_plan.engine.shared.signals import SignalHandlers

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_CUTS_SHORT = 3  # the number of the signal that cuts the end of the session short


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM or SIGHUP: pytest ends as after Ctrl-C, with the signal's exit status."""

    __module__ = "pytest_plan"


class Signals:
    """The signal handlers of the process that runs the plan.

    Args:
        interrupt: a function that stops the plan's running phase for the given reason; it takes no
            lock.
    """

    def __init__(self, interrupt: Callable[[str], None]) -> None:
        self._interrupt = interrupt
        self._handlers = SignalHandlers(self._act)
        # Only the main thread changes these: the number of `owned` blocks it is in, and whether
        # pytest is ending the session.
        self._depth = 0
        self._is_ending = False

    @property
    def received(self) -> list[int]:
        """The signals received so far, in order, without those that are part of the first one."""
        return self._handlers.received

    def install(self) -> None:
        """Install a handler for each signal that has the default handler.

        Outside the main thread, do nothing.
        """
        numbers = [getattr(signal, name, None) for name in _NAMES]
        self._handlers.install(number for number in numbers if number is not None)

    def restore(self, *, at_once: bool = False) -> None:
        """Restore the previous handlers; see `SignalHandlers.restore`."""
        self._handlers.restore(at_once=at_once)

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Let signals stop the plan instead of raising while the plugin's own code runs."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def begin_ending(self) -> None:
        """From now on, record the first and the second signal without raising.

        pytest is shutting down, and a second Ctrl-C must not cut its hooks short. The third raises.
        """
        self._is_ending = True

    def raise_received(self) -> None:
        """Raise the exception for the first signal received; do nothing if there was none."""
        if self.received:
            raise _exception(self.received[0])

    def exit_status(self) -> int | None:
        """Return the exit status for the first signal received, or None if there was none."""
        if not self.received:
            return None
        first = self.received[0]
        return 2 if first == signal.SIGINT else 128 + first

    def _act(self, number: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        # Every signal in our own code interrupts the plan again. The first one stops the steps. One
        # during cleanup reports what is still being cleaned up, and the next one leaves that to the
        # reaper.
        if self._depth:
            self._interrupt(f"{signal.Signals(number).name} received")
        elif not self._is_ending or len(self.received) >= _CUTS_SHORT:
            raise _exception(number)


def _exception(number: int) -> KeyboardInterrupt:
    name = signal.Signals(number).name
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(name)


def interrupt_on_terminate() -> Callable[[], None]:
    """Make SIGTERM and SIGHUP interrupt this worker as Ctrl-C does, so that fixtures are torn down.

    Return a function that restores the previous handlers.
    """
    handlers = SignalHandlers(_interrupt)
    numbers = [getattr(signal, name, None) for name in _NAMES]
    handlers.install(number for number in numbers if number is not None)
    return functools.partial(handlers.restore, at_once=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    __tracebackhide__ = True
    raise KeyboardInterrupt


def interrupt_main_thread() -> None:
    """Interrupt the main thread of this process, even in a blocking call.

    Any thread can call this function.
    """
    number = signal.SIGINT
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(getattr(handler, "__self__", None), SignalHandlers):
        number = signal.SIGTERM  # a shell makes its background processes ignore SIGINT
    ident = threading.main_thread().ident
    if ident is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(ident, number)
    else:
        signal.raise_signal(number)
