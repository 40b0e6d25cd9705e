"""Ends workers: at the limit, those whose test does not end; before cleanup, all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.plugin.compat import xdist_internals

if TYPE_CHECKING:
    from pytest_plan.plugin.run.host import Host
    from pytest_plan.plugin.xdist.server import Server

_GRACE = 3.0  # seconds that workers may take to end before cleanup
_KILL_WAIT = 1.0
_POLL = 0.2
_SILENCE = 4.0  # seconds after the limit for a worker to report that it is ending or stuck


class Ending:
    """Ends the workers of a run.

    Args:
        config: the config of the controller.
        servers: the controller's end of the channel to each worker, by node; new workers are added.
        say: a function that prints what has gone wrong.
    """

    def __init__(
        self, config: pytest.Config, servers: Mapping[Any, Server], say: Callable[[str], None]
    ) -> None:
        self._config = config
        self._servers = servers
        self._say = say
        self._watcher: threading.Thread | None = None
        self._done = threading.Event()
        self._ended: dict[Any, str] = {}  # why, by the node of a worker that did not end

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, report: pytest.TestReport) -> None:
        """Say in the report of a test that its worker did not end, and what became of it."""
        reason = self._ended.get(getattr(report, "node", None))
        if reason is not None:
            report.longrepr = f"{report.longrepr}\n{reason}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Note the end of a worker; report it if it did not end by itself, also without a test."""
        if node in self._servers:
            self._servers[node].notice()
        if node in self._ended:
            self._say(self._ended[node])

    def watch_limit(self, host: Host) -> None:
        """End the workers that do not end by themselves once the limit has been reached."""
        if self._watcher is None and host.remaining() is not None:
            self._watcher = threading.Thread(
                target=self._end_stuck_workers, args=(host,), name="plan-limit", daemon=True
            )
            self._watcher.start()
            self._config.add_cleanup(self._done.set)

    def end_all(self) -> None:
        """End all workers, and wait for them."""
        deadline = SystemClock.now() + _GRACE
        xdist_internals.end_workers(self._config, _GRACE)
        for node, server in self._servers.items():
            if server.gone.wait(max(0.0, deadline - SystemClock.now())):
                continue
            xdist_internals.kill(node)
            if not server.gone.wait(_KILL_WAIT) and node not in self._ended:
                self._say(f"worker {server.worker!r} did not end; {_advice(server)}")

    def _end_stuck_workers(self, host: Host) -> None:
        """Once the limit has been reached, kill each worker whose test does not end."""
        while left := host.remaining() or 0.0:
            if self._done.wait(min(left, _POLL)):
                return
        silent_until = SystemClock.now() + _SILENCE
        while not self._done.wait(_POLL):
            for node, server in list(self._servers.items()):
                is_silent = SystemClock.now() > silent_until and not server.is_ending
                if server.stuck is not None or is_silent:
                    self._end_stuck(node, server)

    def _end_stuck(self, node: Any, server: Server) -> None:
        """Kill a worker that did not end by itself, or give up one that cannot be killed."""
        if server.gone.is_set() or node in self._ended:
            return
        xdist_internals.start_no_more_workers(self._config)
        is_ours = xdist_internals.pid_of(node) == server.pid
        fate = "it was killed" if is_ours else _advice(server)
        self._ended[node] = (
            f"worker {server.worker!r} did not end after the plan's limit had passed; {fate}"
        )
        xdist_internals.kill(node)
        if not server.gone.wait(_KILL_WAIT) and not is_ours:
            xdist_internals.give_up(node)


def _advice(server: Server) -> str:
    # Only a process on this machine, which this process has started, can be killed for certain.
    where = f"process {server.pid} on {server.host or 'its host'}"
    return f"if {where} is still running, end it, because it may use the environment"
