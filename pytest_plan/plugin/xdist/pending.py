"""Requests of workers that cannot be answered yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from pytest_plan.engine.model.errors import StateError, describe


class Parked(NamedTuple):
    """A request that waits for its answer.

    Attributes:
        worker: who asked.
        request: the number of the request.
        ready: returns the answer, None while there is none.
        reply: sends the number, whether there is an answer, and the answer or the error.
    """

    worker: str
    request: int
    ready: Callable[[], Any]
    reply: Callable[[int, bool, Any], None]


class Parking:
    """The waiting requests; whoever changes something calls `sweep`."""

    def __init__(self) -> None:
        # Guards _waiting. Taken before the store's lock, never while that is held; nothing is
        # sent under it, for a worker that has stopped reading would stop everyone.
        self._lock = threading.Lock()
        self._waiting: list[Parked] = []

    def add(self, parked: Parked) -> None:
        """Let a request wait; it is answered at once if that has become possible."""
        with self._lock:
            self._waiting.append(parked)
        self.sweep()

    def sweep(self) -> None:
        """Answer what can be answered now, in the order of asking."""
        if not self._waiting:
            return
        with self._lock:
            answers = [(parked, _answer(parked)) for parked in self._waiting]
            self._waiting = [parked for parked, answer in answers if answer is None]
        for parked, answer in answers:
            if answer is not None:
                parked.reply(parked.request, *answer)

    def forget(self, worker: str, request: int) -> bool:
        """Drop a request that is not awaited any more; False if it has been answered."""
        with self._lock:
            count = len(self._waiting)
            self._waiting = [
                parked
                for parked in self._waiting
                if (parked.worker, parked.request) != (worker, request)
            ]
            return len(self._waiting) < count

    def drop(self, worker: str) -> None:
        """Drop every request of a worker that is gone."""
        with self._lock:
            self._waiting = [parked for parked in self._waiting if parked.worker != worker]


def _answer(parked: Parked) -> tuple[bool, Any] | None:
    try:
        value = parked.ready()
    except Exception as error:
        return False, str(error) if isinstance(error, StateError) else describe(error)
    return None if value is None else (True, value)
