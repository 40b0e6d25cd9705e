"""What SIGINT, SIGTERM and SIGHUP do while there is an environment to clean up.

While our own code runs on the main thread a handler only notes the signal and wakes the plan: an
exception in the middle of, say, `Thread.start` would lose the thread. It raises only while
pytest or a test runs. POSIX has all three; elsewhere those that exist are handled.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: pytest ends as after Ctrl-C, but with the signal's exit status."""


class Signals:
    """The handlers of the process that owns the plan.

    Args:
        cancel: stops the running phase of the plan; takes no lock.

    Attributes:
        received: the signals that came, in their order.
    """

    def __init__(self, cancel: Callable[[str], None]) -> None:
        self._cancel = cancel
        self.received: list[int] = []
        self._before: dict[int, Any] = {}
        # Both are changed by the main thread alone: how deep our own code is on it, and how many
        # signals are only noted while pytest winds up.
        self._depth = 0
        self._to_note = 0

    def install(self) -> None:
        """Handle the signals that nobody else handles; on the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) in _defaults(number):
                self._before[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)
        self._before.clear()

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Only note signals in the body: it is our own code, on the main thread."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def note_only_once(self) -> None:
        """Only note the next signal: pytest has begun to wind up, and a second one may mean it."""
        self._to_note = 1

    def raise_received(self) -> None:
        """Raise what a handler would have raised meanwhile; nothing when no signal came."""
        if self.received:
            raise _exception(self.received[0])

    def exit_status(self) -> int | None:
        """Return the exit status for the first signal that came, None when none did."""
        if not self.received:
            return None
        first = self.received[0]
        return 2 if first == signal.SIGINT else 128 + first

    def _handle(self, number: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        self.received.append(number)
        if self._depth:
            self._cancel(f"{signal.Signals(number).name} received")
        elif self._to_note:
            self._to_note -= 1
        else:
            raise _exception(number)


def _defaults(number: int) -> tuple[Any, ...]:
    return (signal.default_int_handler,) if number == signal.SIGINT else (signal.SIG_DFL,)


def _exception(number: int) -> KeyboardInterrupt:
    name = signal.Signals(number).name
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(name)


def interrupt_on_terminate() -> Callable[[], None]:
    """Let SIGTERM and SIGHUP interrupt this worker as Ctrl-C does: its fixtures are torn down.

    Returns a function that puts the handlers back that were there before.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    handled = [one for one in numbers if one and signal.getsignal(one) is signal.SIG_DFL]
    for number in handled:
        signal.signal(number, signal.default_int_handler)
    return lambda: _put_back(handled)


def _put_back(numbers: list[int]) -> None:
    for number in numbers:
        if signal.getsignal(number) is signal.default_int_handler:
            signal.signal(number, signal.SIG_DFL)


def interrupt_main_thread() -> None:
    """Interrupt the main thread of this process, also in a blocking call; from any thread."""
    number = signal.SIGINT
    if signal.getsignal(signal.SIGTERM) is signal.default_int_handler:
        number = signal.SIGTERM  # SIGINT is ignored where a shell started us in the background
    ident = threading.main_thread().ident
    if ident is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(ident, number)
    else:
        signal.raise_signal(number)
