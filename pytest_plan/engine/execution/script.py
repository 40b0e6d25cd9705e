"""One run of a plan in a script: signals, cancellation, and the body of the `with` statement.

`asyncio.Runner` is the model. While the engine uses the thread, a signal handler never raises,
because an exception in the middle of, for example, `Thread.start` would lose track of the thread.
It raises only in the body.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from types import CodeType, FrameType, TracebackType

from pytest_plan.engine.execution.run import Run
from pytest_plan.engine.model.events import CleanupInterrupted, Event, Listener
from pytest_plan.engine.model.results import PlanCancelledError, PlanResult
from pytest_plan.engine.shared.signals import SignalHandlers
from pytest_plan.engine.shared.state import State

_NO_BODY = 0


class ScriptRun(contextlib.AbstractContextManager[State, None]):
    """Runs a plan once, with or without a body, and cleans up whatever happens.

    Args:
        begin: the function that begins the run of this object.
        state: the State of the plan.
        signals: the signals to handle in addition to SIGINT.
        listeners: the listeners of the run.
    """

    def __init__(
        self,
        begin: Callable[[ScriptRun], Run],
        state: State,
        signals: Iterable[int],
        listeners: list[Listener],
    ) -> None:
        self._begin = begin
        self._begun: Run | None = None
        self._state = state
        self._listeners = listeners
        self._handlers = SignalHandlers(self._on_signal, nests=True)
        self._numbers = (signal.SIGINT, *signals)
        self._is_cancelled = False
        self._error: BaseException | None = None  # the exception for the first signal
        # The thread that runs the body. In the body, and in `__enter__` once this is set, a signal
        # handler may raise. `__exit__` resets it first of all.
        self._thread = _NO_BODY
        self._has_raised = False  # whether a signal or a cancellation has ended the body

    def execute(self) -> PlanResult:
        """Provision and clean up; return the result, or raise the error of the run."""
        self._begun = self._begin(self)
        try:
            self._handlers.install(self._numbers)
            self._run.provision()
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)
        return self._run.result()

    def __enter__(self) -> State:
        self._begun = self._begin(self)
        try:
            self._handlers.install(self._numbers)
            self._run.provision()
            self._thread = threading.get_ident()
            if self._is_cancelled:
                self._thread = _NO_BODY
                self._run.catch_up()
            failure = self._error or self._run.failure()
            if failure is not None:
                raise failure
        except BaseException as error:
            self._thread = _NO_BODY
            self._end(error)
            raise
        return self._state

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread = _NO_BODY
        self._end(error)

    @property
    def _run(self) -> Run:
        assert self._begun is not None
        return self._begun

    def cancelled(self, reason: str) -> None:
        """Note that the run has been cancelled. On the thread of the body, the first call raises.

        Raises:
            PlanCancelledError: the caller is the body, or a signal handler that interrupted it.
        """
        self._is_cancelled = True
        if self._thread == threading.get_ident() and not self._has_raised:
            self._leave_body(PlanCancelledError(reason), sys._getframe(1))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Act on a signal. This is a signal handler, so it takes no lock."""
        reason = f"{signal.Signals(number).name} received"
        if self._error is None:
            is_interrupt = number == signal.SIGINT
            self._error = KeyboardInterrupt() if is_interrupt else PlanCancelledError(reason)
            if not self._listeners:
                self._listeners.append(_say_what_is_left)
        self._is_cancelled = True
        self._run.interrupt(reason, may_leave=False)
        if self._thread != _NO_BODY:
            self._leave_body(self._error, frame)

    def _leave_body(self, error: BaseException, frame: FrameType | None) -> None:
        """Raise `error` unless the engine is using the thread in `frame`."""
        busy, code = _busy(frame)
        if busy is None or (busy is self and code is ScriptRun.__enter__.__code__):
            self._has_raised = True
            raise error
        if busy is not self:
            busy._stop_instead(error)

    def _stop_instead(self, error: BaseException) -> None:
        """Stop this run, which is in the body of another run; raise `error` at its end."""
        self._is_cancelled = True
        self._error = self._error or error
        if self._begun is not None:
            self._begun.cancel("the enclosing plan was cancelled")

    def _end(self, error: BaseException | None) -> None:
        """Clean up; raise the exception with which the run ends, unless it is `error`.

        A forked copy of the process does nothing.
        """
        if self._run.facts.is_copied():
            return
        try:
            self._run.clean_up(failed=error is not None)
        finally:
            self._handlers.restore()
        ended = self._exception(error)
        if ended is None:
            ended = self._run.error()
            if ended is not None:
                raise ended
            return
        self._run.explain(ended)
        if ended is not error:
            raise ended from error

    def _exception(self, error: BaseException | None) -> BaseException | None:
        """Return the exception that matters more than the outcome of the run, or None."""
        if self._error is not None and (error is None or not self._has_raised):
            return self._error
        return self._run.fatal or error


def _busy(frame: FrameType | None) -> tuple[ScriptRun, CodeType] | tuple[None, None]:
    """Return the run whose engine is using the thread in `frame`, and the method that it runs."""
    while frame is not None:
        if frame.f_code in _CODES:
            return frame.f_locals["self"], frame.f_code
        frame = frame.f_back
    return None, None


_METHODS = (ScriptRun.execute, ScriptRun.__enter__, ScriptRun.__exit__)
_CODES = {method.__code__ for method in _METHODS}


def _say_what_is_left(event: Event) -> None:
    if isinstance(event, CleanupInterrupted) and event.steps:
        sys.stderr.write(f"pytest-plan: still cleaning up: {', '.join(event.steps)}\n")
