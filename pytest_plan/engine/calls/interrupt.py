"""Ends the Python code of one call from another thread (stage three of the escalation).

CPython can set an exception in another thread, where it is raised at some later bytecode. Inside
engine code it would leave data half changed (measured: 241 of 300 locked updates). It is therefore
armed only while user code runs: the engine's own methods mask it, and it is withdrawn when the
call ends.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType


class StepInterrupted(BaseException):
    """Injected into a hook that did not stop when requested. Do not suppress it."""

    __module__ = "pytest_plan"


class Interrupt:
    """Interrupts one call, at most once.

    As a context manager it masks the interruption, and it may be nested. Masking, `arm` and
    `disarm` belong to the thread of the call; `inject` is called on any other thread.
    """

    __slots__ = ("_depth", "_gate", "_injected", "_thread")

    def __init__(self) -> None:
        # Invariant: `_injected` is set, and an exception is sent, only with `_gate` held; it is
        # sent only while `_depth` is 0. Only the call's thread writes `_depth`. After increasing
        # it, that thread waits until the gate is free: from then on nothing is sent, and
        # `_injected` tells whether something was. It never takes the gate itself: since Python
        # 3.14 an exception may arrive between a lock's `__enter__` and the body of the `with`
        # statement, and the lock would stay locked.
        self._gate = threading.Lock()
        self._depth = 1
        self._injected = False
        self._thread = 0

    def arm(self) -> None:
        """Allow the calling thread to be interrupted until `disarm`."""
        self._thread = threading.get_ident()
        self.__exit__(None, None, None)

    def disarm(self) -> None:
        """Forbid the interruption that `arm` allowed; nothing arrives after this returns."""
        while True:
            try:
                self.__enter__()
            except StepInterrupted:
                continue
            return

    def inject(self) -> None:
        """Interrupt the call now, or as soon as it returns to user code."""
        with self._gate:
            if self._injected:
                return
            self._injected = True
            if self._depth == 0:
                _send(self._thread, StepInterrupted)

    def __enter__(self) -> None:
        self._depth += 1
        try:
            while self._gate.locked():
                time.sleep(0)  # the other thread holds it only briefly
            if self._injected:
                _send(self._thread, None)
        except StepInterrupted:
            self._depth -= 1
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth or not self._injected or error is not None:
            return
        # It was sent while masked: raise it here, unless user code is already unwinding from it.
        if not isinstance(sys.exception(), StepInterrupted):
            raise StepInterrupted


def _send(thread: int, error: type[BaseException] | None) -> None:
    # A late import: only a step that does not stop needs it.
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )
