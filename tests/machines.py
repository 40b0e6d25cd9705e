"""Machines that are network namespaces: a controller and hosts with an sshd, on one bridge.

All of them share files, users and processes with this machine, but none of its addresses. The
interfaces exist in the namespaces only, so they cannot collide with anything.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.xdist.cluster import Cluster, Live, wait_until

CONTROLLER = "198.18.0.1"  # of a range for tests, which is not routed
HOSTS = {"one": "198.18.0.11", "two": "198.18.0.12"}
_PORT = 2222
_TOOLS = ("ip", "nsenter", "sshd", "ssh", "ssh-keygen")
# Ends everything in the namespaces, whatever happens to the process that writes to its input.
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
_SSHD = """
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
PidFile none
"""
_SSH = """
Host {name}
    HostName {address}
    Port {port}
    User root
    IdentityFile {folder}/key
    IdentitiesOnly yes
    BatchMode yes
    ConnectTimeout 5
    ServerAliveInterval 1
    ServerAliveCountMax 3
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
"""


def missing() -> str | None:
    """Return why there can be no such machines; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces take root on Linux"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for tool in _TOOLS:
        if shutil.which(tool, path=path) is None:
            return f"there is no program {tool!r}"
    name = f"plan-{uuid.uuid4().hex[:8]}"
    if subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode:
        return "this system allows no network namespaces"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


class Machines:
    """A controller and the hosts, which can reach one another.

    Args:
        folder: a folder for keys and configuration.

    Attributes:
        names: the namespaces: that of the controller, and those of the hosts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        mark = f"plan-{uuid.uuid4().hex[:8]}"
        self.names = [mark, *(f"{mark}-{host}" for host in HOSTS)]
        self._servers: list[subprocess.Popen[bytes]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Create them, and remove them in the end with every process in them."""
        with subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", *self.names],
            stdin=subprocess.PIPE,
            start_new_session=True,
        ):
            self._connect()
            self._start_servers()
            yield
        # Popen has closed the input of the guard, also after an exception, and waited for its end.
        for server in self._servers:
            server.wait()

    def argv(self, host: str | None = None) -> list[str]:
        """Return the words that run a program on a host; None means the controller."""
        return ["nsenter", f"--net=/run/netns/{self._name(host)}"]

    @property
    def spec(self) -> str:
        """The part of a value of `--tx` that each host needs."""
        return f"ssh_config={self._folder / 'ssh_config'}//env:PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"

    def cut(self, host: str) -> None:
        """Cut the link of a host."""
        self._in(None, ["ip", "link", "set", host, "down"])

    def join(self, host: str) -> None:
        """Connect a host again."""
        self._in(None, ["ip", "link", "set", host, "up"])

    def processes(self) -> list[int]:
        """Return the processes on all machines, without the servers of ssh."""
        found = []
        for name in self.names:
            pids = subprocess.check_output(["ip", "netns", "pids", name], text=True)
            found += [int(pid) for pid in pids.split()]
        return [pid for pid in found if pid not in {server.pid for server in self._servers}]

    def _name(self, host: str | None) -> str:
        return self.names[0] if host is None else f"{self.names[0]}-{host}"

    def _in(self, host: str | None, command: Sequence[str]) -> None:
        subprocess.run([*self.argv(host), *command], check=True)

    def _connect(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        self._in(None, ["ip", "link", "add", "bridge", "type", "bridge"])
        self._in(None, ["ip", "address", "add", f"{CONTROLLER}/24", "dev", "bridge"])
        self._in(None, ["ip", "link", "set", "bridge", "up"])
        for host, address in HOSTS.items():
            peer = ["type", "veth", "peer", "name", "eth0", "netns", self._name(host)]
            self._in(None, ["ip", "link", "add", host, *peer])
            self._in(None, ["ip", "link", "set", host, "master", "bridge", "up"])
            self._in(host, ["ip", "address", "add", f"{address}/24", "dev", "eth0"])
            self._in(host, ["ip", "link", "set", "eth0", "up"])

    def _start_servers(self) -> None:
        for name in ("host_key", "key"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
            subprocess.run([*words, self._folder / name], check=True)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd refuses to start without it
        config = ""
        for name, address in HOSTS.items():
            known = {"name": name, "address": address, "folder": self._folder, "port": _PORT}
            config += _SSH.format(**known)
            file = self._folder / f"sshd_{name}"
            file.write_text(_SSHD.format(**known))
            with (self._folder / f"{name}.log").open("w") as log:
                server = subprocess.Popen(
                    [*self.argv(name), shutil.which("sshd", path="/usr/sbin:/sbin") or "sshd",
                     "-D", "-e", "-f", file],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            self._servers.append(server)
        (self._folder / "ssh_config").write_text(config)
        wait_until(lambda: all(map(self._listens, HOSTS)))

    def _listens(self, host: str) -> bool:
        code = f"import socket; socket.create_connection(({HOSTS[host]!r}, {_PORT}), 1)"
        words = [*self.argv(), sys.executable, "-c", code]
        return subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode == 0


class Fleet:
    """One project on the controller and on the hosts.

    Args:
        machines: the machines.
        folder: the folder for its copies.
    """

    def __init__(self, machines: Machines, folder: Path) -> None:
        self.machines = machines
        self.copies = {name: Cluster(folder / name) for name in ("controller", *HOSTS)}

    def write(self, steps: str, tests: str) -> None:
        """Write the same files on every machine."""
        for copy in self.copies.values():
            copy.write("pytest.ini", "[pytest]\n")
            copy.steps(steps)
            copy.tests(tests)

    def start(self, *args: str, tx: list[str] | None = None) -> Live:
        """Start pytest on the controller, with a worker on each host by default."""
        specs = [self.tx(host) for host in HOSTS] if tx is None else tx
        words = [part for spec in specs for part in ("--tx", spec)]
        argv = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "pytest_plan",
            "-p",
            "xdist",
            "--dist",
            "load",
        ]
        path = self.copies["controller"].path
        return Live([*self.machines.argv(), *argv, *words, *args], path, {"PYTHONPATH": ""})

    def tx(self, host: str) -> str:
        """Return the value of `--tx` for a worker on a host."""
        path = self.copies[host].path
        return f"ssh={host}//{self.machines.spec}//python={sys.executable}//chdir={path}"

    def notes(self, first: str) -> list[str]:
        """Return the rest of each note that begins with `first`, on all machines."""
        return [note for copy in self.copies.values() for note in copy.notes(first)]

    def is_idle(self) -> bool:
        """Return whether no process is left on any machine, but the servers of ssh."""
        return not self.machines.processes()


@pytest.fixture(scope="module")
def running_machines(
    own_temporary_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machines]:
    """A controller and two hosts."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    machines = Machines(tmp_path_factory.mktemp("machines"))
    with machines.running():
        yield machines
