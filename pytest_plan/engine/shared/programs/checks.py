"""Calls the checks of steps at regular times while tests run: `ctx.watch` and `alive_every`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from pytest_plan.engine.model.clock import Flag, SystemClock
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.processes.copies import call_in_original, getpid

MOST_FAILURES = 3  # the number of failures in a row after which a step is lost
LEAST_TIME = 1.0  # seconds that each call of a check may take at least
_SLICE = 0.1  # seconds; a process that is suspended while it waits loses only one slice
_PATIENCE = 2.0  # seconds to wait for a check that is running when checks end

Failed = Callable[[str, str, str], None]


class Check:
    """A function that returns whether a step still works.

    Args:
        step: the step.
        name: the name of the check.
        function: the function. A false value or an exception means that the step does not work.
        every: the seconds between two calls.
    """

    def __init__(self, step: str, name: str, function: Callable[[], object], every: float) -> None:
        self.step = step
        self.name = name
        self.function = function
        self.every = every
        self.due = SystemClock.now() + every
        self.failures = 0
        self.running: _Attempt | None = None  # a call that has not returned in time

    @property
    def limit(self) -> float:
        """The seconds that a call may take."""
        return max(LEAST_TIME, self.every)


class Checks:
    """The checks of all steps. They are called one at a time, on a thread, once `begin` is called.

    Hooks add and remove checks on the threads of their steps.
    """

    def __init__(self) -> None:
        self._checks: list[Check] = []  # each change replaces it, with _lock held
        self._lock = threading.Lock()  # guards the two attributes beside it
        self._thread: threading.Thread | None = None
        self._failed: Failed | None = None
        self._is_over = Flag()
        self._has_ended = Flag()

    @property
    def are_needed(self) -> bool:
        """Whether there is any check."""
        return bool(self._checks)

    def add(self, check: Check) -> None:
        """Add a check, which is called for the first time after its interval."""
        with self._lock:
            self._checks = [*self._checks, check]
        self._start()

    def remove(self, check: Check) -> None:
        """Remove a check; do nothing if it has been removed."""
        with self._lock:
            self._checks = [one for one in self._checks if one is not check]

    def begin(self, failed: Failed) -> None:
        """Call the checks from now on; a second call does nothing.

        Args:
            failed: a function to call, on the thread of the checks, with the step, the name and the
                last error of a check that has failed too often. The check is not called again.
        """
        self._failed = self._failed or failed
        self._start()

    def end(self) -> None:
        """Call no check any more, and wait for a running one, but not if it takes long."""
        self._is_over.set()
        if self._thread is not None:
            self._has_ended.wait(_PATIENCE)

    def _start(self) -> None:
        with self._lock:
            is_needed = self._failed is not None and self._checks
            if self._thread is not None or not is_needed:
                return
            self._thread = threading.Thread(target=self._run, name="plan-checks", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system refuses a thread: then nothing is checked
            self._has_ended.set()

    def _run(self) -> None:
        try:
            while not self._is_over.wait(self._seconds_to_wait()):
                now = SystemClock.now()
                due = [check for check in self._checks if check.due <= now]
                for check in sorted(due, key=lambda check: check.due):
                    self._perform(check)
        finally:
            self._has_ended.set()

    def _seconds_to_wait(self) -> float:
        due = min((check.due for check in self._checks), default=math.inf)
        return min(max(0.0, due - SystemClock.now()), 1.0)  # others may be added

    def _perform(self, check: Check) -> None:
        if self._is_over.wait(0.0) or check not in self._checks:
            return
        error = self._error_of(check)
        check.due = SystemClock.now() + check.every
        if self._is_over.wait(0.0) or check not in self._checks:
            return  # what it needs may have been cleaned up
        check.failures = 0 if error is None else check.failures + 1
        if error is not None and check.failures >= MOST_FAILURES:
            self.remove(check)
            assert self._failed is not None
            self._failed(check.step, check.name, error)

    def _error_of(self, check: Check) -> str | None:
        """Call a check; return its error on one line, or None if the step still works."""
        if check.running is not None and not check.running.has_ended.wait(0.0):
            return f"no answer within {check.limit:g} s"  # it hangs; another one would hang, too
        check.running = attempt = _Attempt(check)
        if not attempt.start():
            return None
        for _ in range(math.ceil(check.limit / _SLICE)):
            if attempt.has_ended.wait(_SLICE):
                check.running = None
                return attempt.error
            if self._is_over.wait(0.0):
                return None
        return f"no answer within {check.limit:g} s"


class _Attempt:
    """One call of a check, on a thread of its own, which can be left behind."""

    def __init__(self, check: Check) -> None:
        self.has_ended = Flag()
        self.error: str | None = None
        self._check = check
        self._process = getpid()

    def start(self) -> bool:
        """Begin the call; return False if the system refuses a thread."""
        name = f"plan-check-{self._check.step}"
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError:
            return False
        return True

    def _run(self) -> None:
        try:
            value = call_in_original(self._process, self._check.function)
            self.error = None if value else f"it returned {value!r}"
        except BaseException as error:
            self.error = describe(error)
        finally:
            self.has_ended.set()
