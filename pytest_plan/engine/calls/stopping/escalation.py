"""Stops a call in four stages. The coordinator advances them.

1. Wake the call's `ctx`, and cancel its task.
2. Send SIGTERM to its process trees.
3. Send SIGKILL to its process trees, and inject an exception into its Python code.
4. Abandon the call: stop waiting for its thread.

No stage blocks. When the call ends, its escalation ends too.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from pytest_plan.engine.calls.call import Call
from pytest_plan.engine.calls.threads import frame_of
from pytest_plan.engine.model.stop import Stop
from pytest_plan.engine.processes.tree import KILL

# Seconds after the first stage. Before TERMINATE_AFTER, a woken hook can end its own programs.
TERMINATE_AFTER = 0.1
KILL_AFTER = 1.0
ABANDON_AFTER = 3.0


class Escalation:
    """The escalation for one call.

    Args:
        call: the call that must stop.
        stop: why it must stop.
        now: the current time on the plan's clock.
        wake: a function that makes every thread that waits for the State check whether it must
            stop.

    Attributes:
        call: the call that must stop.
        next_at: the time on the plan's clock of the next stage.
    """

    __slots__ = ("_began", "_stage", "_stop", "_wake", "call", "next_at")

    def __init__(self, call: Call, stop: Stop, now: float, wake: Callable[[], None]) -> None:
        self.call = call
        self._wake = wake
        self.next_at = now
        self._began = now
        self._stop = stop
        self._stage = 0

    def advance(self) -> bool:
        """Enter the next stage; return whether the call must now be abandoned."""
        self._stage += 1
        if self._stage == 1:
            self.call.stop(self._stop)
            self._wake()
            self.next_at = self._began + TERMINATE_AFTER
        elif self._stage == 2:
            self._signal(signal.SIGTERM)
            self.next_at = self._began + KILL_AFTER
        elif self._stage == 3:
            self._signal(KILL)
            self.call.interrupt()
            self.next_at = self._began + ABANDON_AFTER
        return self._stage > 3

    def stack(self) -> str:
        """Return the formatted stack of the call's thread."""
        frame = frame_of(self.call.runs_on())
        if frame is None:
            return "(its thread has ended)"
        import traceback  # imported late because few runs need it

        return "".join(traceback.format_stack(frame))

    def _signal(self, number: int) -> None:
        for process in list(self.call.scope.processes):
            process.signal_tree(number)
