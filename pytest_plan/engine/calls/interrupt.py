"""Ends the Python code of one call from another thread (stage three of the escalation).

CPython can set an exception in another thread; it arrives at some later bytecode. In the middle
of engine code that would tear data (measured: 241 of 300 locked updates), so it is armed only
while user code runs: the engine's own methods mask it, and it is withdrawn when the call ends.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType


class StepInterrupted(BaseException):
    """Injected into a hook that did not stop when asked; let it propagate."""

    __module__ = "pytest_plan"


class Interrupt:
    """One chance to interrupt one call; a context manager that masks it.

    `arm` and the masking run on the thread of the call, `inject` on any other. The instance
    also is the mask: `with interrupt:` may be nested.
    """

    __slots__ = ("_depth", "_gate", "_injected", "_thread")

    def __init__(self) -> None:
        # Invariant: `_injected` is set, and an exception sent, only with `_gate` held, and sent
        # only while `_depth` is 0. `_depth` is written by the call's thread alone, which after
        # raising it waits until the gate is free: from then on nothing new is sent, and what was
        # sent shows. It never takes the gate: from Python 3.14 on, an exception may arrive
        # between a lock's `__enter__` and the body of the `with`, and nobody would give it back.
        self._gate = threading.Lock()
        self._depth = 1
        self._injected = False
        self._thread = 0

    def arm(self) -> None:
        """Allow interruption of the calling thread until `disarm`."""
        self._thread = threading.get_ident()
        self.__exit__(None, None, None)

    def disarm(self) -> None:
        """End what `arm` began; nothing arrives after this has returned."""
        while True:
            try:
                self.__enter__()
            except StepInterrupted:
                continue
            return

    def inject(self) -> None:
        """Interrupt the call now, or as soon as it is back in user code."""
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
                time.sleep(0)  # the other thread holds it for a moment only
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
        # Masked when it was sent: deliver it here, unless user code is already unwinding from it.
        if not isinstance(sys.exception(), StepInterrupted):
            raise StepInterrupted


def _send(thread: int, error: type[BaseException] | None) -> None:
    # Imported here: only a step that does not stop needs it.
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )
