"""A worker's end of the channel to the controller: sends requests and receives answers."""

from __future__ import annotations

import contextlib
import itertools
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.processes.copies import getpid
from pytest_plan.engine.shared.store import IN_COPY
from pytest_plan.plugin.xdist.wire import received, send

__tracebackhide__ = True  # as in engine/shared/state.py
_GRACE = 1.0  # seconds that tests may go on after the controller has ended
_POLL = 1.0  # seconds between two checks in a wait that signals cannot interrupt, or with a timeout
_GONE = "the controller of this run has ended: its State and its steps are no longer available"


class Progress(NamedTuple):
    """What the steps have come to, if tests run before all of them have ended.

    Attributes:
        version: how often their results have changed.
        unfinished: the steps that have not ended.
        setting: the steps that have set environment variables.
    """

    version: int
    unfinished: list[str]
    setting: list[str]


class Client:
    """Sends requests to the controller, from any thread of this worker, over one execnet channel.

    Args:
        channel: the channel that the controller has opened.
        stop: a function that the receiver thread calls when the controller asks this worker to
            stop, or has ended.

    Attributes:
        ending: an event that is set when the worker begins to finish its session. From then on,
            `stop` is no longer called.
        progress: what the steps have come to; None if all had ended before the tests began.
        losses: the last message of the controller about lost steps; see `Server.lost`. None before
            a step was lost.
    """

    def __init__(self, channel: Any, stop: Callable[[], None]) -> None:
        self._channel = channel  # execnet keeps only a weak reference
        self._stop = stop
        self.ending = threading.Event()
        # Only the receiver thread replaces these.
        self.progress: Progress | None = None
        self.losses: bytes | None = None
        self._pid = getpid()
        self._numbers = itertools.count(1)
        self._is_gone = False
        # A request adds its own queue before it is sent, and the receiver thread removes it when
        # the answer arrives. One thread at a time uses a key, so no lock is needed.
        self._waiting: dict[int, queue.SimpleQueue[tuple[bool, Any]]] = {}
        channel.setcallback(self._receive, endmarker=None)

    def tell(self, what: str, *arguments: Any) -> None:
        """Send a message that needs no answer.

        Raises:
            StateError: the controller has ended.
        """
        self._send((0, what, *arguments))

    def ask(self, what: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Send a request and return its answer.

        Args:
            what: the name of the request.
            arguments: values that execnet can send.
            timeout: the maximum time to wait for the answer, in seconds; None means no timeout.

        Raises:
            StateError: the controller refused the request, or has ended.
            TimeoutError: no answer arrived in time; the controller has been asked to forget the
                request.
        """
        number = next(self._numbers)
        answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._waiting[number] = answers
        try:
            self._send((number, what, *arguments))
            done, answer = self._wait(answers, timeout)
        except BaseException as error:  # including one that a signal handler raises
            with contextlib.suppress(StateError):
                self.tell("forget", number)
            if isinstance(error, queue.Empty):
                raise TimeoutError(f"no answer to {what!r} after {timeout} s") from None
            raise
        finally:
            self._waiting.pop(number, None)
        if not done:
            raise StateError(answer)
        return answer

    def is_copied(self) -> bool:
        """Return whether this process is a forked copy of the worker."""
        return getpid() != self._pid

    def _send(self, message: tuple[Any, ...]) -> None:
        if getpid() != self._pid:
            raise StateError(IN_COPY)  # it would share the connection with its parent
        if self._is_gone:
            raise StateError(_GONE)  # nobody would answer, although execnet may still send
        try:
            send(self._channel, message)
        except OSError as error:
            raise StateError(_GONE) from error

    def _wait(
        self, answers: queue.SimpleQueue[tuple[bool, Any]], timeout: float | None
    ) -> tuple[bool, Any]:
        if timeout is None and sys.platform != "win32":  # signals interrupt it
            return answers.get()
        deadline = None if timeout is None else SystemClock.now() + timeout
        while True:
            left = _POLL if deadline is None else max(0.0, deadline - SystemClock.now())
            try:
                return answers.get(timeout=min(left, _POLL))
            except queue.Empty:
                if self._is_gone:
                    return False, _GONE
                if left < _POLL:
                    raise

    def _receive(self, message: Any) -> None:
        if message is None:
            self._is_gone = True
            for waiting in list(self._waiting.values()):
                waiting.put((False, _GONE))
            threading.Thread(target=self._stop_soon, name="plan-gone", daemon=True).start()
            return
        number, done, answer = received(message)
        if number:
            if (answers := self._waiting.pop(number, None)) is not None:
                answers.put((done, answer))
        elif isinstance(answer, bytes):
            self.losses = answer
        elif isinstance(answer, tuple):
            self.progress = Progress(*answer)
        else:
            self._stop_tests()

    def _stop_soon(self) -> None:
        """Stop tests that do not end by themselves, now that the environment is cleaned up.

        On another machine, no signal and no reaper ends this worker, and execnet would let it run
        for five seconds.
        """
        self.ending.wait(_GRACE)  # those that wait for the controller get an error
        self._stop_tests()

    def _stop_tests(self) -> None:
        if not self.ending.is_set():  # otherwise `stop` would interrupt the session-finish hooks
            self._stop()
