"""Shows during a wait what is waited for."""

from __future__ import annotations

from collections.abc import Callable

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.plugin.main_thread.foreground import Foreground

_INTERVAL = 10.0  # seconds between two lines about a wait


class Heartbeat:
    """Writes a line at once, when it changes, and again after some time.

    Args:
        foreground: the main thread, which shows it.
        text: a function that returns the line.
        every: the seconds after which the same line is written again.
    """

    def __init__(
        self, foreground: Foreground, text: Callable[[], str], every: float = _INTERVAL
    ) -> None:
        self._foreground = foreground
        self._every = every
        self._text = text
        self._said = ""
        self._next = 0.0

    def __call__(self) -> None:
        """Write the line if it is due."""
        text, now = self._text(), SystemClock.now()
        if text == self._said and now < self._next:
            return
        self._said, self._next = text, now + self._every
        self._foreground.say(text, always=True)
