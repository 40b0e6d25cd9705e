"""Machines on which clients are played, and a server that they share."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_plan.engine.model.clock import SystemClock
from tests.faults.sharing.servers import Running, running
from tests.namespaces import Network
from tests.sharing.runs import ROOT

MACHINES = {f"m{number}": f"198.18.0.{10 + number}" for number in range(1, 7)}
_APART = Path(__file__).with_name("apart")
_HOUR = 3600
CLOCKS = dict(zip(MACHINES, (0, 5 * _HOUR, -7 * _HOUR, 26 * _HOUR, -3 * _HOUR, 90), strict=True))


class World:
    """A server of a kind, and machines that reach it.

    Attributes:
        kind: the kind of the server.
        network: the machines.
        running: the server.
        folder: a folder for logs.
    """

    def __init__(self, kind: str, network: Network, server: Running, folder: Path) -> None:
        self.kind = kind
        self.network = network
        self.running = server
        self.folder = folder
        self._waiting = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.sharing.client"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    @property
    def url(self) -> str:
        """The URL of the server."""
        return self.running.server.url

    def start(self, machine: str, given: dict[str, Any]) -> int:
        """Start a client on a machine; return its pid."""
        place = {"namespace": self.network.namespace(machine), "apart": CLOCKS[machine]}
        assert self._waiting.stdin is not None
        assert self._waiting.stdout is not None
        self._waiting.stdin.write(f"{json.dumps(given | place)}\n")
        self._waiting.stdin.flush()
        return int(self._waiting.stdout.readline())

    def end(self) -> None:
        """End the process that waits."""
        self._waiting.communicate()


def environment(machine: str) -> dict[str, str]:
    """Return the environment variables of processes on a machine, whose clock is apart."""
    path = f"{_APART}{os.pathsep}{ROOT}"
    return {**os.environ, "PYTHONPATH": path, "CLOCK_APART": str(CLOCKS[machine])}


def is_alive(pid: int) -> bool:
    """Return whether a process has not ended."""
    try:
        state = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def kill(pid: int) -> None:
    """Kill a process, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while is_alive(pid):
        SystemClock.sleep(0.002)


@contextlib.contextmanager
def world(kind: str) -> Iterator[World]:
    """Create a world with a server of a kind, and remove it in the end."""
    folder = Path(tempfile.mkdtemp(prefix="world"))
    network = Network(MACHINES)
    try:
        with network.running(), running(kind, network) as server:
            found = World(kind, network, server, folder)
            try:
                yield found
            finally:
                found.end()
    finally:
        shutil.rmtree(folder)
