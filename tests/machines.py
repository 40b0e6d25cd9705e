"""Machines that are network namespaces: a controller and hosts with an sshd, on one bridge."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.namespaces import HUB, Network, missing
from tests.xdist.cluster import Cluster, Live, wait_until

CONTROLLER = HUB
HOSTS = {"one": "198.18.0.11", "two": "198.18.0.12"}
_PORT = 2222
_TOOLS = ("ip", "nsenter", "sshd", "ssh", "ssh-keygen")
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


class Machines(Network):
    """A controller and the hosts, which can reach one another.

    Args:
        folder: a folder for keys and configuration.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(HOSTS)
        self._folder = folder
        self._servers: list[subprocess.Popen[bytes]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Create them, and remove them in the end with every process in them."""
        with super().running():
            self._start_servers()
            yield
        for server in self._servers:
            server.wait()

    @property
    def spec(self) -> str:
        """The part of a value of `--tx` that each host needs."""
        return f"ssh_config={self._folder / 'ssh_config'}//env:PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"

    def all_processes(self) -> list[int]:
        """Return the processes on all machines, without the servers of ssh."""
        found = [pid for machine in (None, *HOSTS) for pid in self.processes(machine)]
        return [pid for pid in found if pid not in {server.pid for server in self._servers}]

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
        return not self.machines.all_processes()


@pytest.fixture(scope="module")
def running_machines(
    own_temporary_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machines]:
    """A controller and two hosts."""
    if (reason := missing(_TOOLS)) is not None:
        pytest.skip(reason)
    machines = Machines(tmp_path_factory.mktemp("machines"))
    with machines.running():
        yield machines
