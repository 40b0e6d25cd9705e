"""Parts of pytest-xdist and execnet without a public API, each with a fallback.

The start barrier is needed because xdist handles no event while the controller provisions.
Afterwards it would send tests to workers that died in the meantime, which is an INTERNALERROR; with
some schedulers, a replacement worker that has not collected yet causes one as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

_SCHEDULER = ("add_node_collection", "collection_is_completed", "numnodes", "remove_node")


class StartBarrier:
    """Start barrier in front of xdist's scheduler.

    It holds each worker's collection back until every worker that is still alive has sent one.

    Args:
        scheduler: xdist's scheduler. From now on, the barrier tells it which workers have
            collected and which have left.
        is_gone: whether a worker's process has ended.

    Attributes:
        lost: the id of the first worker that died before any test was distributed; None if none
            did.
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
        # One of the schedulers shuts its idle workers down when another worker leaves.
        scheduler.check_schedule = _schedule_nothing

    @property
    def is_open(self) -> bool:
        """Whether tests have been distributed, or can be."""
        return bool(self._scheduler.collection_is_completed)

    def _collected(self, node: Any, collection: Sequence[str]) -> None:
        if self.is_open:  # a replacement for a crashed worker
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
        if not self.is_open:
            self._collections.pop(node, None)
            self.lost = self.lost or node.gateway.id
        crashed: str | None = self._remove(node)
        return crashed


def hold_tests(scheduler: Any, is_gone: Callable[[Any], bool]) -> StartBarrier | None:
    """Put a start barrier in front of the scheduler.

    Returns None, and leaves the scheduler alone, if it has distributed tests already or is a
    third-party scheduler that works in another way.
    """
    if (
        not all(hasattr(scheduler, name) for name in _SCHEDULER)
        or scheduler.collection_is_completed
    ):
        return None
    return StartBarrier(scheduler, is_gone)


def ignore_send_errors(node: Any) -> None:
    """Raise nothing when a message is sent to a worker that has just died.

    xdist notices its death later and handles it as a crash during a test.
    """
    send = node.sendcommand

    def sendcommand(name: str, **arguments: Any) -> None:
        with contextlib.suppress(OSError):
            send(name, **arguments)

    node.sendcommand = sendcommand


def start_no_more_workers(config: pytest.Config) -> None:
    """Keep xdist from replacing crashed workers, as `--max-worker-restart=0` does.

    If xdist has no such setting, it starts a replacement.
    """
    session: Any = config.pluginmanager.get_plugin("dsession")
    if hasattr(session, "_max_worker_restart"):
        session._max_worker_restart = 0


def has_exited(node: Any) -> bool:
    """Whether the local process of a worker has exited; False for one that runs elsewhere."""
    process = _process(node)
    return process is not None and process.poll() is not None


def kill(node: Any) -> None:
    """Kill the process that execnet started on this machine for a worker, if there is one.

    A pid that the worker sends is never used: behind a proxy or in a container the same number
    means another process.
    """
    process = _process(node)
    if process is not None:
        process.kill()


def _process(node: Any) -> Any | None:
    return getattr(getattr(node.gateway, "_io", None), "popen", None)


def _schedule_nothing(*_: object, **__: object) -> None:
    """Do nothing: no test has been distributed yet."""
