"""Machines that are network namespaces on one bridge, whose links can be cut.

They share files, users and processes with this machine, but none of its addresses. The interfaces
exist in the namespaces only, so they cannot collide with anything.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

HUB = "198.18.0.1"  # of a range for tests, which is not routed
_PREFIX = "plan-"
# Ends everything in the namespaces, even if the process that writes to its input is killed.
_GUARD = """
read -r _
for name in "$@"; do
    while pids=$(ip netns pids "$name" 2>/dev/null) && [ -n "$pids" ]; do
        kill -KILL $pids 2>/dev/null
        sleep 0.05
    done
    ip netns del "$name" 2>/dev/null
done
exit 0
"""


def missing(tools: Sequence[str] = ("ip", "nsenter")) -> str | None:
    """Return why there can be no such machines; None if there can.

    Args:
        tools: the programs that they take.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces take root on Linux"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for tool in tools:
        if shutil.which(tool, path=path) is None:
            return f"there is no program {tool!r}"
    name = f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    if subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode:
        return "this system allows no network namespaces"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


class Network:
    """A hub, which has the bridge, and machines that are connected to it.

    Args:
        addresses: the address of each machine by its name, in the network of `HUB`.
    """

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses
        self._mark = f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Create it, and remove it in the end with every process in it."""
        _sweep()
        names = [self.namespace(), *map(self.namespace, self._addresses)]
        with subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", *names], stdin=subprocess.PIPE, start_new_session=True
        ):
            self._connect()
            yield
        # Popen has closed the input of the guard, also after an exception, and waited for its end.

    def namespace(self, machine: str | None = None) -> str:
        """Return the namespace of a machine; None means the hub."""
        return self._mark if machine is None else f"{self._mark}-{machine}"

    def argv(self, machine: str | None = None) -> list[str]:
        """Return the words that run a program on a machine; None means the hub."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(machine)}"]

    def cut(self, machine: str) -> None:
        """Cut the link of a machine."""
        self._in(None, ["ip", "link", "set", machine, "down"])

    def join(self, machine: str) -> None:
        """Connect a machine again."""
        self._in(None, ["ip", "link", "set", machine, "up"])

    def processes(self, machine: str | None = None) -> list[int]:
        """Return the processes on a machine; None means the hub."""
        words = ["ip", "netns", "pids", self.namespace(machine)]
        return [int(pid) for pid in subprocess.check_output(words, text=True).split()]

    def _in(self, machine: str | None, command: Sequence[str]) -> None:
        subprocess.run([*self.argv(machine), *command], check=True)

    def _connect(self) -> None:
        for name in (self.namespace(), *map(self.namespace, self._addresses)):
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        self._in(None, ["ip", "link", "add", "bridge", "type", "bridge"])
        self._in(None, ["ip", "address", "add", f"{HUB}/24", "dev", "bridge"])
        self._in(None, ["ip", "link", "set", "bridge", "up"])
        for machine, address in self._addresses.items():
            peer = ["type", "veth", "peer", "name", "eth0", "netns", self.namespace(machine)]
            self._in(None, ["ip", "link", "add", machine, *peer])
            self._in(None, ["ip", "link", "set", machine, "master", "bridge", "up"])
            self._in(machine, ["ip", "address", "add", f"{address}/24", "dev", "eth0"])
            self._in(machine, ["ip", "link", "set", "eth0", "up"])


def _sweep() -> None:
    """Remove the namespaces of processes that were killed, as far as their guards have not."""
    folder = Path("/run/netns")
    for path in folder.glob(f"{_PREFIX}[0-9]*-*") if folder.is_dir() else ():
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            subprocess.run(
                ["sh", "-c", _GUARD, "guard", path.name], check=False, stdin=subprocess.DEVNULL
            )
