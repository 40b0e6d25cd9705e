"""Signal handlers that are installed for the duration of a run."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, TypeAlias

TOGETHER = 0.5  # a signal this many seconds after the first one, or less, is part of it

Act: TypeAlias = Callable[[int, FrameType | None], None]


class SignalHandlers:
    """Handlers for signals that would otherwise have their default effect.

    A terminal and a wrapper, `docker stop` or `timeout` often send a signal twice. Therefore, every
    signal that arrives within half a second of the first one is ignored.

    Args:
        act: the function to call in the handler, with its arguments, for every other signal.
        nests: whether to replace the handlers of another such object, which is in use meanwhile.

    Attributes:
        received: the signals for which `act` was called, in order.
    """

    # A test may replace the functions of `time`.
    _now = staticmethod(time.monotonic)
    _sleep = staticmethod(time.sleep)

    def __init__(self, act: Act, *, nests: bool = False) -> None:
        self._act = act
        self._nests = nests
        self.received: list[int] = []
        self._first_at = 0.0
        self._before: dict[int, Any] = {}

    @property
    def numbers(self) -> tuple[int, ...]:
        """The signals whose handlers are installed."""
        return tuple(self._before)

    def install(self, numbers: Iterable[int]) -> None:
        """Install a handler for each signal that has its default handler.

        Outside the main thread, do nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in dict.fromkeys(numbers):
            handler = signal.getsignal(number)
            owner = getattr(handler, "__self__", None)
            nests = self._nests and isinstance(owner, SignalHandlers) and owner._nests
            if nests or handler in _defaults(number):
                self._before[number] = signal.signal(number, self._handle)

    def restore(self, *, at_once: bool = False) -> None:
        """Restore the previous handlers.

        Unless `at_once` is true, do so at the earliest half a second after the first signal.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        while self._before and self._is_part_of_first() and not at_once:
            self._sleep(max(0.0, self._first_at + TOGETHER - self._now()))
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)
        self._before.clear()

    def _is_part_of_first(self) -> bool:
        return bool(self.received) and self._now() - self._first_at < TOGETHER

    def _handle(self, number: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        if self._is_part_of_first():
            return
        if not self.received:
            self._first_at = self._now()
        self.received.append(number)
        self._act(number, frame)


def _defaults(number: int) -> tuple[Any, ...]:
    return (signal.default_int_handler,) if number == signal.SIGINT else (signal.SIG_DFL,)
