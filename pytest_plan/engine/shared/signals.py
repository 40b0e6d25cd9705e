"""Signal handlers that are installed for the duration of a run.

A forked copy of the process has no plan to stop, so it gets back the handlers that were there
before.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from types import FrameType
from typing import Any, TypeAlias

from pytest_plan.engine.model.clock import SystemClock

_SOON = 0.05  # seconds in which a fork ends
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

    _now = staticmethod(SystemClock.now)
    _sleep = staticmethod(SystemClock.sleep)

    def __init__(self, act: Act, *, nests: bool = False) -> None:
        self._act = act
        self._nests = nests
        self.received: list[int] = []
        self._first_at = 0.0
        self._is_forking = False  # while the main thread forks
        self._late: list[int] = []  # the signals received meanwhile
        self._before: dict[int, Any] = {}

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
        if self._before:
            _watch_forks()

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

    def begin_fork(self) -> None:
        """Keep the signals that arrive until `end_fork`, because Python ignores what a hook raises.

        Call this in the main thread.
        """
        self._is_forking = True

    def end_fork(self) -> None:
        """Send the signals again that were kept."""
        self._is_forking = False
        late, self._late = self._late, []
        for number in dict.fromkeys(late):
            _send_later(number, _SOON)

    def restore_in_copy(self, number: int) -> None:
        """Restore the handler of a signal that was there before all objects of this class."""
        signal.signal(number, self._original(number))

    def _original(self, number: int) -> Any:
        handler = self._before[number]
        owner = getattr(handler, "__self__", None)
        return owner._original(number) if isinstance(owner, SignalHandlers) else handler

    def _is_part_of_first(self) -> bool:
        return bool(self.received) and self._now() - self._first_at < TOGETHER

    def _handle(self, number: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        if self._is_forking:
            self._late.append(number)
            return
        if self._is_part_of_first():
            return
        if not self.received:
            self._first_at = self._now()
        self.received.append(number)
        self._act(number, frame)


def _defaults(number: int) -> tuple[Any, ...]:
    return (signal.default_int_handler,) if number == signal.SIGINT else (signal.SIG_DFL,)


def _installed() -> dict[int, SignalHandlers]:
    owners = {
        number: getattr(signal.getsignal(number), "__self__", None) for number in signal.Signals
    }
    return {number: one for number, one in owners.items() if isinstance(one, SignalHandlers)}


class _Blocked(threading.local):
    """The signals that this thread has blocked while it forks."""

    numbers: Collection[int] = ()


@functools.cache
def _watch_forks() -> None:
    """Restore the previous handlers in each copy of this process that is forked from now on.

    Until then, the signals are blocked. Otherwise Python would lose a signal that reaches a copy
    before its handlers are restored, and `Process.terminate` would not end the copy.
    """
    if not hasattr(os, "register_at_fork"):
        return
    ours = _Blocked()

    def before() -> None:
        with _raising_later():
            handlers = _installed()
            if threading.current_thread() is threading.main_thread():
                for each in handlers.values():
                    each.begin_fork()
            ours.numbers = handlers.keys() - signal.pthread_sigmask(signal.SIG_BLOCK, ())
            signal.pthread_sigmask(signal.SIG_BLOCK, ours.numbers)

    def after_in_parent() -> None:
        with _raising_later():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ours.numbers)
            if threading.current_thread() is threading.main_thread():
                for each in _installed().values():
                    each.end_fork()

    def after_in_child() -> None:
        for number, handlers in _installed().items():
            handlers.restore_in_copy(number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ours.numbers)

    os.register_at_fork(
        before=before, after_in_parent=after_in_parent, after_in_child=after_in_child
    )


@contextlib.contextmanager
def _raising_later() -> Iterator[None]:
    """Let a handler that raises here raise again later: Python ignores what a hook raises."""
    try:
        yield
    except BaseException:
        for number, handlers in _installed().items():
            if number in handlers.received:
                _send_later(number, TOGETHER + _SOON)


def _send_later(number: int, seconds: float) -> None:
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(seconds, signal.pthread_kill, (main, number))
    timer.daemon = True
    timer.start()
