"""Internals of pytest-xdist and execnet, each with a fallback.

xdist handles no events while the controller provisions. Without the start barrier, it would then
send tests to workers that have died in the meantime, which is an INTERNALERROR. With some
schedulers, a replacement worker that has not collected yet causes the same error.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

_KNOWN = "node2collection"  # where schedulers keep the tests of each worker
_SCHEDULER = ("add_node_collection", "collection_is_completed", "numnodes", "remove_node")


class StartBarrier:
    """Start barrier in front of xdist's scheduler.

    It holds each worker's collection back until every worker that is still alive has sent one.

    Args:
        scheduler: the scheduler that xdist uses. The barrier tells it which workers have collected
            and which have left. If it passes this on to another one, that is its `inner`.
        is_gone: a function that returns whether a worker's process has ended.

    Attributes:
        lost: the id of the first worker that died before any test was distributed; None if no
            worker did.
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
        # One of the schedulers shuts down its idle workers when another worker leaves.
        self._inner = getattr(scheduler, "inner", scheduler)
        self._inner.check_schedule = _schedule_nothing

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
        del self._inner.check_schedule
        for one, its in living.items():
            self._add(one, its)

    def _left(self, node: Any) -> str | None:
        if not self.is_open:
            self._collections.pop(node, None)
            self.lost = self.lost or node.gateway.id
        crashed: str | None = self._remove(node)
        return crashed


def hold_tests(scheduler: Any, is_gone: Callable[[Any], bool]) -> StartBarrier | None:
    """Put a start barrier in front of the scheduler and return the barrier.

    If the scheduler has already distributed tests, or is a third-party scheduler that works in
    another way, leave it unchanged and return None.
    """
    if (
        not all(hasattr(scheduler, name) for name in _SCHEDULER)
        or scheduler.collection_is_completed
    ):
        return None
    return StartBarrier(scheduler, is_gone)


def note_collection(scheduler: Any, node: Any, collection: Sequence[str]) -> None:
    """Let the scheduler of `--dist each` know the tests of a worker that has joined later.

    It knows only those of the first workers. Otherwise it would lose the tests of a replacement
    that crashes as well. A scheduler that works in another way is left unchanged.
    """
    known = getattr(scheduler, _KNOWN, None)
    if isinstance(known, dict):
        known.setdefault(node, list(collection))


def put_back(scheduler: Any, node: Any, item: str) -> None:
    """Let a scheduler give out a test again that it has taken from a worker that has ended.

    Those that keep tests of a file or a class together have put it back themselves, and `--dist
    each` keeps what is left of a worker for its replacement. A scheduler that works in yet another
    way does not give the test out again.

    Args:
        scheduler: the scheduler.
        node: the worker that has ended.
        item: the node id of a test that the worker was given but has not begun.
    """
    try:
        scheduler.mark_test_pending(item)
    except NotImplementedError:
        left, known = (getattr(scheduler, name, None) for name in ("_removed2pending", _KNOWN))
        if isinstance(left, dict) and isinstance(known, dict):
            left.setdefault(node, []).insert(0, known[node].index(item))


def ignore_send_errors(node: Any) -> None:
    """Ignore errors when xdist sends a message to a worker that has just died.

    xdist notices later that the worker has died, and handles this as a crash during a test.
    """
    send = node.sendcommand

    def sendcommand(name: str, **arguments: Any) -> None:
        with contextlib.suppress(OSError):
            send(name, **arguments)

    node.sendcommand = sendcommand


def start_no_more_workers(config: pytest.Config) -> None:
    """Keep xdist from replacing crashed workers, as `--max-worker-restart=0` does.

    If this version of xdist has no such setting, it still starts a replacement.
    """
    session: Any = config.pluginmanager.get_plugin("dsession")
    if hasattr(session, "_max_worker_restart"):
        session._max_worker_restart = 0


def replace_reachable_workers(
    config: pytest.Config, refuse: Callable[[Any, Exception], None]
) -> None:
    """Let xdist go on without a crashed worker if its host cannot be reached for a replacement.

    Otherwise, this would be an INTERNALERROR, as it is if this version of xdist starts replacements
    in another way.

    Args:
        config: the config of the controller.
        refuse: a function to call with a worker that cannot be replaced, and the reason. It may
            raise an exception to end the session.
    """
    session: Any = config.pluginmanager.get_plugin("dsession")
    if not hasattr(session, "_clone_node"):
        return
    from execnet.gateway_bootstrap import HostNotFound

    replace = session._clone_node

    def replace_if_reachable(node: Any) -> Any:
        try:
            return replace(node)
        except (HostNotFound, EOFError, OSError) as error:
            refuse(node, error)

    session._clone_node = replace_if_reachable


def end_workers(config: pytest.Config, seconds: float) -> None:
    """End all workers, wait for them, and kill those of this machine that do not end in time.

    xdist does the same when the session finishes, and waits longer. If this version of xdist works
    in another way, nothing happens here.
    """
    session: Any = config.pluginmanager.get_plugin("dsession")
    group: Any = getattr(getattr(session, "nodemanager", None), "group", None)
    if hasattr(group, "terminate"):
        group.terminate(timeout=seconds)


def count_failure(config: pytest.Config, report: pytest.TestReport) -> None:
    """Let the controller count a failure that no worker has sent, for `--maxfail`.

    If this version of xdist counts failures in another way, it is not counted.
    """
    count = getattr(config.pluginmanager.get_plugin("dsession"), "_handlefailures", None)
    if count is not None:
        count(report)


def call_soon(config: pytest.Config, function: Callable[[], None]) -> None:
    """Let the main thread of the controller call a function, from any thread.

    It waits for messages of workers up to two seconds. If this version of xdist waits for them in
    another way, or this process is no controller, nothing happens.
    """
    session: Any = config.pluginmanager.get_plugin("dsession")
    put = getattr(getattr(session, "queue", None), "put", None)
    if put is not None and hasattr(session, "loop_once"):
        session.worker_pytest_plan = _call
        put(("pytest_plan", {"function": function}))


def _call(function: Callable[[], None]) -> None:
    function()


def has_exited(node: Any) -> bool:
    """Return whether the local process of a worker has exited; False if it has no local process."""
    process = _process(node)
    return process is not None and process.poll() is not None


def pid_of(node: Any) -> int | None:
    """Return the pid of the local process of a worker; None if it has none or has exited."""
    process = _process(node)
    return None if process is None or process.poll() is not None else int(process.pid)


def kill(node: Any) -> None:
    """Kill the process of a worker, if execnet can, or close the connection to it.

    It can if it has started the process on this machine, or through a gateway that it can still
    reach. The pid that the worker sent is never used: if the worker runs behind a proxy or in a
    container, that number may belong to a different process on this machine.
    """
    process = _process(node)
    if process is not None:
        process.kill()
        return
    io: Any = getattr(node.gateway, "_io", None)
    if hasattr(io, "sock"):  # otherwise execnet waits half a minute for the worker
        io.close_read()
    elif hasattr(io, "kill"):  # a gateway that hangs would not answer
        threading.Thread(target=io.kill, name="plan-kill", daemon=True).start()


def give_up(node: Any) -> None:
    """Let xdist treat a worker that cannot be ended as crashed, and ignore what it sends later.

    If this version of xdist works in another way, it keeps waiting for the worker.
    """
    if not hasattr(node, "notify_inproc") or getattr(node, "_down", False):
        return
    node._down = True
    node.notify_inproc("errordown", node=node, error="the worker cannot be ended")
    node.notify_inproc = _ignore


def connection_of(channel: Any) -> list[int]:
    """Return the file descriptors of a worker's connection to the controller, if execnet has any.

    Args:
        channel: a channel of the worker.
    """
    io: Any = getattr(getattr(channel, "gateway", None), "_io", None)
    names = [name for name in ("infile", "outfile", "sock") if hasattr(io, name)]
    return [getattr(io, name).fileno() for name in names]


def disconnect(connection: Sequence[int]) -> None:
    """Keep this forked copy of a worker from using the connection of the worker.

    What it wrote would mix with what the worker writes. And while it kept the connection open, the
    controller would not notice that the worker has ended.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in connection:
        with contextlib.suppress(OSError):
            os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _process(node: Any) -> Any | None:
    return getattr(getattr(node.gateway, "_io", None), "popen", None)


def _schedule_nothing(*_: object, **__: object) -> None:
    """Do nothing, because no test has been distributed yet."""


def sendable(data: Any) -> Any:
    r"""Return a serialized report with each lone surrogate written as an escape such as `\udcff`.

    Bytes that are not valid UTF-8 become lone surrogates in messages. execnet cannot send them, and
    the worker would end with an INTERNALERROR. Other values are returned unchanged.
    """
    if isinstance(data, str):
        return data if data.isascii() else data.encode("utf-8", "backslashreplace").decode()
    if isinstance(data, dict):
        return {sendable(key): sendable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(sendable, data)) if type(data) in (list, tuple) else data
    return data


def _ignore(*_: object, **__: object) -> None:
    """Ignore a message of a worker that counts as crashed."""
