"""The four stages by which a call is made to stop; the coordinator advances them.

It wakes the call's `ctx`; ends its process trees; interrupts its Python code; and leaves its
thread behind. No stage blocks, and a call that ends in between takes the escalation with it.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable

from pytest_plan.engine.calls.call import Call
from pytest_plan.engine.calls.threads import frame_of
from pytest_plan.engine.model.stop import Stop
from pytest_plan.engine.processes.tree import KILL

TERMINATE_AFTER = 0.1  # seconds for a woken hook to end by itself, before its programs are
KILL_AFTER = 1.0
ABANDON_AFTER = 3.0


class Escalation:
    """The way up for one call; `wake` lets those look again who wait in the State.

    Attributes:
        call: what must stop.
        next_at: when to advance next.
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
        """Take the next stage; return True when the last one has been reached."""
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
            self.call.scope.interrupt.inject()
            self.next_at = self._began + ABANDON_AFTER
        return self._stage > 3

    def stack(self) -> str:
        """Return where the call is stuck."""
        frame = frame_of(self.call.runs_on())
        if frame is None:
            return "(its thread has ended)"
        return "".join(traceback.format_stack(frame))

    def _signal(self, number: int) -> None:
        for process in list(self.call.scope.processes):
            process.signal_tree(number)
