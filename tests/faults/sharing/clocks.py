"""Sets the wall clock of a process apart.

A time namespace of Linux cannot do this: it has the monotonic clock only.
"""

from __future__ import annotations

import time

from pytest_plan.engine.model.clock import SystemClock


def set_apart(seconds: float) -> None:
    """Set the wall clock of this process ahead, for the module `time` and for pytest-plan."""
    right = time.time
    time.time = lambda: right() + seconds
    time.time_ns = lambda: round((right() + seconds) * 1e9)
    SystemClock.wall = staticmethod(lambda: right() + seconds)
