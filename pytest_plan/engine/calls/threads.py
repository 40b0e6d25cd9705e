"""The daemon threads that perform calls.

They do not use `concurrent.futures`, which delays the interpreter's exit until a stuck task ends
(measured).
"""

from __future__ import annotations

import gc
import queue
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

from pytest_plan.engine.calls.call import Call, Ending, Raised, Refused
from pytest_plan.engine.model.clock import Clock
from pytest_plan.engine.processes.copies import end_copy, getpid

Completed: TypeAlias = Callable[[Call, Ending], "Call | None"]
_Inbox: TypeAlias = "queue.SimpleQueue[Call | None]"

_NO_THREAD = (
    "the system refused a new thread: {}; raise the limit on processes (ulimit -u, pids.max of "
    "the container) or on memory (ulimit -v)"
)


class Threads:
    """A pool with one thread for each concurrent call. Idle threads are reused.

    If the system refuses a new thread, a shielded call such as a cleanup runs on the calling
    thread, where it cannot be stopped. The pool refuses every other call.

    Args:
        completed: a function to call with each call and its ending, on the thread of the call. It
            returns the next call for that thread, or None if there is none.
        clock: the clock on which idle threads wait for work.
    """

    def __init__(self, completed: Completed, clock: Clock) -> None:
        self._completed = completed
        self._clock = clock
        self._lock = threading.Lock()  # guards both attributes below
        self._idle: list[_Inbox] = []
        self._closed = False

    def run(self, call: Call) -> None:
        """Perform `call` on an idle thread or a new one."""
        following: Call | None = call
        while following is not None:
            following = self._hand_over(following)

    def close(self) -> None:
        """End the idle threads now, and every other thread when it becomes idle."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)

    def _hand_over(self, call: Call) -> Call | None:
        """Hand the call to a thread; if none is available, end it here and return the next call."""
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is not None:
            inbox.put(call)
            return None
        inbox = queue.SimpleQueue()
        inbox.put(call)
        thread = threading.Thread(
            target=self._serve, args=(inbox,), name=f"plan-{call.scope.step}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            return self._completed(call, _ending_without_thread(call, error))
        return None

    def _serve(self, inbox: _Inbox) -> None:
        thread, process = threading.current_thread(), getpid()
        call = self._clock.get(inbox, None)
        while call is not None:
            thread.name = f"plan-{call.scope.step}"
            ending = _perform(call, process)
            following = self._completed(call, ending)
            if following is None and self._rest(inbox):
                thread.name = "plan-idle"
                following = self._clock.get(inbox, None)
            call = following

    def _rest(self, inbox: _Inbox) -> bool:
        with self._lock:
            if not self._closed:
                self._idle.append(inbox)
            return not self._closed


def _ending_without_thread(call: Call, error: RuntimeError) -> Ending:
    if not call.is_shielded:
        return Refused(RuntimeError(_NO_THREAD.format(error)))
    return _perform(call, getpid())


def _perform(call: Call, process: int) -> Ending:
    call.thread = threading.get_ident()
    ending = call.perform()
    end_copy(process, ending.error if isinstance(ending, Raised) else None)
    return ending


def frame_of(thread: int | None) -> FrameType | None:
    """Return the current frame of the thread with this id; None if there is no such thread."""
    # Before Python 3.11.9, garbage collection during _current_frames can deadlock (gh-106883).
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames().get(thread or 0)
    finally:
        if collects:
            gc.enable()
