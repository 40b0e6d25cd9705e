"""Lets pytest-xdist give tests to workers that live, and to no others.

While the controller provisions, xdist handles no event. Afterwards it would send tests to workers
that died meanwhile, which is an internal error; and with some of its schedulers a clone that has
not collected yet is one, too. So the scheduler hears of the collections when all have come.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any


class Roll:
    """The workers that have collected and live, until there are enough to begin.

    Args:
        scheduler: xdist's; from now on it learns by us who has collected, and who has left.
        is_gone: whether a worker's process has ended.

    Attributes:
        lost: the first worker that died before any test was given out; None: none did.
    """

    def __init__(self, scheduler: Any, is_gone: Callable[[Any], bool]) -> None:
        self._scheduler = scheduler
        self._is_gone = is_gone
        self._add = scheduler.add_node_collection
        self._remove = scheduler.remove_node
        self._collections: dict[Any, Sequence[str]] = {}
        self.lost: str | None = None
        scheduler.add_node_collection = self._collected
        scheduler.remove_node = self._left
        # One of the schedulers sends its idle workers home when another one leaves.
        scheduler.check_schedule = _schedule_nothing

    @property
    def is_complete(self) -> bool:
        """Whether tests have been given out, or can be."""
        return bool(self._scheduler.collection_is_completed)

    def _collected(self, node: Any, collection: Sequence[str]) -> None:
        if self.is_complete:  # a clone that came later
            self._add(node, collection)
            return
        self._collections[node] = collection
        living = {one: its for one, its in self._collections.items() if not self._is_gone(one)}
        if len(living) < self._scheduler.numnodes:
            return
        del self._scheduler.check_schedule
        for one, its in living.items():
            self._add(one, its)

    def _left(self, node: Any) -> str | None:
        if not self.is_complete:
            self._collections.pop(node, None)
            self.lost = self.lost or node.gateway.id
        crashed: str | None = self._remove(node)
        return crashed


def call_roll(scheduler: Any, is_gone: Callable[[Any], bool]) -> Roll | None:
    """Begin a roll; None for a scheduler of somebody else that works in another way."""
    if not hasattr(scheduler, "numnodes") or scheduler.collection_is_completed:
        return None
    return Roll(scheduler, is_gone)


def forgive_death(node: Any) -> None:
    """Let nothing be raised when something is sent to a worker that has just died.

    xdist will hear of it, and does then what it does for a worker that crashed in a test.
    """
    send = node.sendcommand

    def sendcommand(name: str, **arguments: Any) -> None:
        with contextlib.suppress(OSError):
            send(name, **arguments)

    node.sendcommand = sendcommand


def _schedule_nothing(*_: object, **__: object) -> None:
    """Leave everything as it is: no test has been given out yet."""
