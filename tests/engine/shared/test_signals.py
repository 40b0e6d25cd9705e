"""Signal handlers that are installed for the duration of a run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from signal import SIGHUP, SIGINT, SIGTERM
from typing import Any

import pytest

from pytest_plan.engine.shared.signals import TOGETHER, SignalHandlers
from tests.engine.support.steps import Background


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Every test begins with the default handlers, and the earlier ones are restored."""
    before = {number: signal.getsignal(number) for number in (SIGINT, SIGTERM, SIGHUP)}
    signal.signal(SIGINT, signal.default_int_handler)
    signal.signal(SIGTERM, signal.SIG_DFL)
    signal.signal(SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Recorded(SignalHandlers):
    """Handlers that do nothing but record, with a clock that stands still."""

    now = 0.0

    def __init__(self, **options: Any) -> None:
        super().__init__(lambda *_: None, **options)
        self.slept: list[float] = []

    def _now(self) -> float:
        return self.now

    def _sleep(self, seconds: Any) -> None:
        self.slept.append(seconds)
        signal.raise_signal(SIGINT)
        self.now += seconds


def test_signals_that_follow_closely_are_part_of_the_first() -> None:
    """Another signal counts half a second after the first one, whichever signal it is."""
    handlers = Recorded()
    handlers.install([SIGINT, SIGTERM])
    for at, number in [(0, SIGTERM), (0, SIGINT), (TOGETHER - 0.01, SIGTERM), (0.6, SIGINT)]:
        handlers.now = at
        signal.raise_signal(number)
    assert handlers.received == [SIGTERM, SIGINT]
    for at, number in [(0.6, SIGTERM), (0.7, SIGTERM)]:
        handlers.now = at
        signal.raise_signal(number)
    assert handlers.received == [SIGTERM, SIGINT, SIGTERM, SIGTERM]


def test_only_default_handlers_are_replaced_and_restored() -> None:
    """A handler of the program stays, before and after."""

    def own(*_: object) -> None: ...

    signal.signal(SIGHUP, own)
    signal.signal(SIGTERM, signal.SIG_IGN)
    handlers = Recorded()
    handlers.install([SIGINT, SIGINT, SIGTERM, SIGHUP])
    assert (signal.getsignal(SIGTERM), signal.getsignal(SIGHUP)) == (signal.SIG_IGN, own)
    assert signal.getsignal(SIGINT) is not signal.default_int_handler
    handlers.restore()
    assert signal.getsignal(SIGINT) is signal.default_int_handler


def test_a_handler_that_the_program_installs_meanwhile_stays() -> None:
    """`restore` does not remove it."""

    def own(*_: object) -> None: ...

    handlers = Recorded()
    handlers.install([SIGINT])
    signal.signal(SIGINT, own)
    handlers.restore()
    assert signal.getsignal(SIGINT) is own


def test_copies_of_the_first_signal_are_awaited_before_the_handlers_are_restored() -> None:
    """A later signal has its default effect again."""
    handlers = Recorded()
    handlers.install([SIGINT])
    signal.raise_signal(SIGINT)
    handlers.restore()
    assert handlers.slept == [TOGETHER]
    assert handlers.received == [SIGINT]
    assert signal.getsignal(SIGINT) is signal.default_int_handler


def test_handlers_nest_only_if_both_do() -> None:
    """A plan in the body of another one takes its signals; it does not take those of pytest."""
    outer, inner = Recorded(nests=True), Recorded(nests=True)
    outer.install([SIGINT])
    Recorded().install([SIGINT])
    inner.install([SIGINT])
    signal.raise_signal(SIGINT)
    assert (outer.received, inner.received) == ([], [SIGINT])
    inner.now = 1.0
    inner.restore()
    signal.raise_signal(SIGINT)
    assert outer.received == [SIGINT]


def test_outside_the_main_thread_nothing_is_installed() -> None:
    """Only the main thread can install a handler."""
    handlers = Recorded()
    Background(lambda: handlers.install([SIGINT])).result()
    assert signal.getsignal(SIGINT) is signal.default_int_handler
    Background(handlers.restore).result()
