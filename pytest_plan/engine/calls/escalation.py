"""The four rungs by which a call is made to stop; the coordinator climbs them.

It wakes the call's `ctx`; ends its process trees; interrupts its Python code; and leaves its
thread behind. No rung blocks, and a call that ends in between takes the ladder with it.
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


class Ladder:
    """The way up for one call; `wake` lets those look again who wait in the State.

    Attributes:
        call: what must stop.
        next_at: when to climb next.
    """

    __slots__ = ("_began", "_rung", "_stop", "_wake", "call", "next_at")

    def __init__(self, call: Call, stop: Stop, now: float, wake: Callable[[], None]) -> None:
        self.call = call
        self._wake = wake
        self.next_at = now
        self._began = now
        self._stop = stop
        self._rung = 0

    def climb(self) -> bool:
        """Take the next rung; return True when the last one has been reached."""
        self._rung += 1
        if self._rung == 1:
            self.call.stop(self._stop)
            self._wake()
            self.next_at = self._began + TERMINATE_AFTER
        elif self._rung == 2:
            self._signal(signal.SIGTERM)
            self.next_at = self._began + KILL_AFTER
        elif self._rung == 3:
            self._signal(KILL)
            self.call.scope.mask.inject()
            self.next_at = self._began + ABANDON_AFTER
        return self._rung > 3

    def thread(self) -> int:
        """Return the thread that the call's function runs on."""
        return self.call.body.thread() or self.call.thread

    def stack(self) -> str:
        """Return where the call is stuck."""
        frame = frame_of(self.thread())
        if frame is None:
            return "(its thread has ended)"
        return "".join(traceback.format_stack(frame))

    def _signal(self, number: int) -> None:
        for process in list(self.call.scope.processes):
            process.signal_tree(number)
