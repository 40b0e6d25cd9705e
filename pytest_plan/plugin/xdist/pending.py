"""Holds requests of workers that cannot be answered yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from pytest_plan.engine.model.errors import StateError, describe


class PendingRequest(NamedTuple):
    """A request that waits for its answer.

    Attributes:
        worker: the id of the worker that sent it.
        number: the number of the request.
        ready: a function that returns the answer, or None if there is no answer yet.
        reply: a function that sends the number, whether the request succeeded, and the answer or
            the error text.
    """

    worker: str
    number: int
    ready: Callable[[], Any]
    reply: Callable[[int, bool, Any], None]


class PendingRequests:
    """The waiting requests. Code that changes the State or a decision calls `answer_ready`."""

    def __init__(self) -> None:
        # Guards _waiting. This lock is taken before the store's lock, never while the store's lock
        # is held. Nothing is sent while this lock is held, because a worker that has stopped
        # reading would block all others.
        self._lock = threading.Lock()
        self._waiting: list[PendingRequest] = []

    def add(self, request: PendingRequest) -> None:
        """Add a request, and answer it immediately if its answer is ready."""
        with self._lock:
            self._waiting.append(request)
        self.answer_ready()

    def answer_ready(self) -> None:
        """Answer the requests whose answers are ready, in the order in which they were added."""
        if not self._waiting:
            return
        with self._lock:
            answers = [(request, _answer(request)) for request in self._waiting]
            self._waiting = [request for request, answer in answers if answer is None]
        for request, answer in answers:
            if answer is not None:
                request.reply(request.number, *answer)

    def forget(self, worker: str, number: int) -> bool:
        """Drop a request that the worker has given up; return False if it was already answered."""
        with self._lock:
            left = [one for one in self._waiting if (one.worker, one.number) != (worker, number)]
            is_waiting = len(left) < len(self._waiting)
            self._waiting = left
            return is_waiting

    def drop(self, worker: str) -> None:
        """Drop every request of a worker that has ended."""
        with self._lock:
            self._waiting = [request for request in self._waiting if request.worker != worker]


def _answer(request: PendingRequest) -> tuple[bool, Any] | None:
    try:
        value = request.ready()
    except Exception as error:
        return False, str(error) if isinstance(error, StateError) else describe(error)
    return None if value is None else (True, value)
