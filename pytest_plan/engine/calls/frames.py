"""Where another thread is."""

from __future__ import annotations

import gc
import sys
from types import FrameType


def frame_of(thread: int | None) -> FrameType | None:
    """Return the frame that a thread is in; None when there is no such thread."""
    # A garbage collection in the middle of it would never return before Python 3.11.9 (gh-106883).
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames().get(thread or 0)
    finally:
        if collects:
            gc.enable()
