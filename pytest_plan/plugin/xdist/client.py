"""A worker's end of the line to the controller: requests with numbers, and their answers."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
from collections.abc import Callable
from typing import Any

from pytest_plan.engine.model.errors import StateError

__tracebackhide__ = True  # as in engine/state.py
_POLL = 1.0  # seconds between two looks while waiting; signals get through meanwhile
_GONE = "the controller of this run has gone: nothing of the plan can be asked any more"


class Link:
    """Requests of any thread of this worker over one execnet channel.

    Args:
        channel: the channel that the controller made.
        stop: called in the receiver thread when the controller wants this worker to end.
    """

    def __init__(self, channel: Any, stop: Callable[[], None]) -> None:
        self._channel = channel  # execnet keeps it weakly; we must not
        self._stop = stop
        self.is_ending = False  # set by the main thread, once
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        self._is_gone = False
        # A request adds its own queue before it sends, the receiver thread takes it out when it
        # answers: each key is touched by one thread at a time, so no lock.
        self._waiting: dict[int, queue.SimpleQueue[tuple[bool, Any]]] = {}
        channel.setcallback(self._receive, endmarker=None)

    def tell(self, what: str, *arguments: Any) -> None:
        """Send something that has no answer."""
        self._send((0, what, *arguments))

    def ask(self, what: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Send a request and return its answer.

        Args:
            what: the request.
            arguments: values that execnet can send.
            timeout: seconds; None waits for ever.

        Raises:
            StateError: the controller refused, or has gone.
            TimeoutError: there was no answer in time; the controller has been told.
        """
        number = next(self._numbers)
        answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._waiting[number] = answers
        try:
            self._send((number, what, *arguments))
            done, answer = self._wait(answers, timeout)
        except BaseException as error:  # also what a signal handler raises while we wait
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

    def _send(self, message: tuple[Any, ...]) -> None:
        if os.getpid() != self._pid:
            raise StateError(
                "the plan cannot be used in a process forked from a test: "
                "it would share the line to the controller with its parent"
            )
        try:
            self._channel.send(message)
        except OSError as error:
            raise StateError(_GONE) from error

    def _wait(
        self, answers: queue.SimpleQueue[tuple[bool, Any]], timeout: float | None
    ) -> tuple[bool, Any]:
        if timeout is not None:
            return answers.get(timeout=timeout)
        while True:
            try:
                return answers.get(timeout=_POLL)
            except queue.Empty:
                if self._is_gone:
                    return False, _GONE

    def _receive(self, message: Any) -> None:
        if message is None:
            self._is_gone = True
            for waiting in list(self._waiting.values()):
                waiting.put((False, _GONE))
            return
        number, done, answer = message
        if number == 0:
            if not self.is_ending:  # else it would cut short how the worker winds up
                self._stop()
        elif (answers := self._waiting.pop(number, None)) is not None:
            answers.put((done, answer))
