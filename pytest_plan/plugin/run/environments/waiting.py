"""Claims a named environment, and waits while another process uses it."""

from __future__ import annotations

from pathlib import Path

from pytest_plan.engine.environments.environment import BusyError, Environment
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.plugin.main_thread.foreground import Foreground

_POLL = 0.1  # seconds between two attempts to claim the environment


class Waiting:
    """Claims environments. All waits together take no longer than `--plan-wait` allows.

    Args:
        parent: the `plan_dir`.
        key: the key that seals the journals.
        seconds: the maximum time to wait; 0 means not to wait.
        foreground: the main thread, which shows what it waits for, and receives signals.
    """

    def __init__(self, parent: Path, key: Key, seconds: float, foreground: Foreground) -> None:
        self._parent = parent
        self._key = key
        self._seconds = self._left = seconds
        self._foreground = foreground

    def claim(self, name: str) -> Environment:
        """Claim an environment, if necessary after a wait.

        Raises:
            BusyError: another process owns it, and did so until the time was over.
            JournalError: it cannot be used; see `Environment`.
            KeyboardInterrupt: a signal was received during the wait.
        """
        begun, is_said = SystemClock.now(), False
        while True:
            left = begun + self._left - SystemClock.now()
            try:
                environment = Environment(self._parent, name, self._key)
            except BusyError as error:
                if left <= 0:
                    raise self._late(error) from None
                if not is_said:
                    self._say(error)
                    is_said = True
            else:
                self._left = max(0.0, left)
                return environment
            self._foreground.signals.raise_received()
            SystemClock.sleep(min(_POLL, left))

    def _say(self, error: BusyError) -> None:
        limit, use = format_duration(self._seconds), str(error).partition("; ")[0]
        self._foreground.say(f"waiting for at most {limit}, because {use}", always=True)

    def _late(self, error: BusyError) -> BusyError:
        if not self._seconds:
            return error
        limit = format_duration(self._seconds)
        return BusyError(f"{error}; this run has waited for {limit}")
