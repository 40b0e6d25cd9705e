"""Which processes listen, and where. Only Linux tells; elsewhere nobody is found.

A listener that was there before a step's program is a stranger: it may answer in its place.
"""

# Annotations are not postponed: a NamedTuple would compile each of them.
import contextlib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pytest_plan.engine.processes.addresses import LOOPBACK, addresses_at
from pytest_plan.engine.processes.identity import name_of, process_table

_LISTENS = "0A"  # the state of a listening socket in /proc/net/tcp
_ACCEPTS = 0x10000  # the flag of a listening socket in /proc/net/unix
_PORT = r"(?:^|[:=])(\d{1,5})(?![\w.\]])"


class Stranger(NamedTuple):
    """A process outside the plan that listens on a port.

    Attributes:
        port: the port.
        socket: the inode of the listening socket.
        pid: its process id; None if it cannot be seen.
    """

    port: int
    socket: int
    pid: int | None

    def __str__(self) -> str:
        who = "another process" if self.pid is None else f"{name_of(self.pid)!r} (pid {self.pid})"
        return f"{who} already listens on port {self.port}"

    def as_answer(self) -> str:
        """Return the message of a step to which it has answered in place of a program."""
        name = f"process {self.pid} ({name_of(self.pid)})" if self.pid else "another process"
        return f"port {self.port} is answered by {name}, which is not of this step"


class _Socket(NamedTuple):
    """A TCP socket; its remote port is 0 if it listens, and its host is as /proc shows it."""

    host: str
    port: int
    remote: int
    state: str
    inode: int


def ports_in(arguments: Iterable[str]) -> set[int]:
    """Return the ports that are a word of an argument, as in `5432`, `:5432` or `=5432`."""
    found = {int(port) for argument in arguments for port in re.findall(_PORT, argument)}
    return {port for port in found if 0 < port < 65536}


def are_in(ports: Iterable[int], arguments: Iterable[str]) -> set[int]:
    """Return those of `ports` that an argument contains anywhere, as in `-o "-p 5432"`."""
    numbers = {number for argument in arguments for number in re.findall(r"\d+", argument)}
    return {port for port in ports if str(port) in numbers}


def listening_on(ports: Collection[int]) -> dict[int, int]:
    """Return the inodes of the sockets that listen on `ports`, each with its port."""
    if not ports:
        return {}
    return {one.inode: one.port for one in _sockets() if _listens_on(one, ports)}


def strangers_at(sockets: Mapping[int, int], is_ours: Callable[[int], bool]) -> list[Stranger]:
    """Return the listeners on `sockets` of which no process is ours.

    Args:
        sockets: the inodes of listening sockets, each with its port.
        is_ours: a function that returns whether the process with a certain pid belongs to the plan.
    """
    if not sockets:
        return []
    holders: dict[int, list[int]] = {inode: [] for inode in sockets}
    for pid in process_table():
        for inode in _inodes_of(pid) & sockets.keys():
            holders[inode].append(pid)
    return [
        Stranger(port, inode, min(holders[inode], default=None))
        for inode, port in sockets.items()
        if not any(is_ours(pid) for pid in holders[inode])
    ]


def foreign_listeners(
    ports: Collection[int],
    pids: Callable[[], Collection[int]],
    is_ours: Callable[[int], bool],
    host: str = LOOPBACK,
) -> list[Stranger]:
    """Return the listeners on those of `ports` on which no process of a tree listens.

    Only those count that answer on `host`; for a loopback address, on the usual ones as well.
    Nobody is found if nothing can be told, because the sockets of a process of the tree are hidden.

    Args:
        ports: the ports.
        pids: a function that returns the processes of the tree.
        is_ours: a function that returns whether a process belongs to the tree.
        host: the address on which the tree is to listen.
    """
    first = _foreign(ports, pids, is_ours, host)
    # A process of the tree may just have handed its socket to a child and ended.
    return [one for one in _foreign(ports, pids, is_ours, host) if one in first] if first else []


def _foreign(
    ports: Collection[int],
    pids: Callable[[], Collection[int]],
    is_ours: Callable[[int], bool],
    host: str,
) -> list[Stranger]:
    listening = [one for one in _sockets() if _listens_on(one, ports)]
    found = {one.inode: one.port for one in listening if _answers_at(one, host)}
    if not found:
        return []
    members = pids()
    own = {inode for pid in members for inode in _inodes_of(pid)}
    held = {port for inode, port in found.items() if inode in own}
    foreign = {inode: port for inode, port in found.items() if port not in held}
    if not all(os.access(f"/proc/{pid}/fd", os.R_OK) for pid in members if _exists(pid)):
        return []
    return strangers_at(foreign, is_ours)


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def still_there(strangers: Sequence[Stranger], pids: Iterable[int]) -> list[Stranger]:
    """Return the strangers that still listen, and whose ports none of the processes uses.

    Args:
        strangers: the strangers.
        pids: the processes, which may listen on a port or be connected to it as clients.
    """
    own = {inode for pid in pids for inode in _inodes_of(pid)}
    sockets = list(_sockets())
    inodes = {one.inode for one in sockets}
    used = {one.port for one in sockets if one.inode in own and one.state == _LISTENS}
    used |= {one.remote for one in sockets if one.inode in own}
    return [one for one in strangers if one.socket in inodes and one.port not in used]


def addresses_of(pids: Iterable[int]) -> list[str]:
    """Return where processes listen: `HOST:PORT` for TCP, the path of a Unix socket."""
    own = {inode for pid in pids for inode in _inodes_of(pid)}
    found = {_address(one) for one in _sockets() if one.inode in own and one.state == _LISTENS}
    return sorted(found) + sorted(_paths(own))


def descends_from(pid: int, ancestor: int) -> bool:
    """Return whether a process was started by `ancestor`, directly or not."""
    table = process_table()
    while pid in table and pid != ancestor:
        pid = table[pid].parent
    return pid == ancestor


def _listens_on(one: _Socket, ports: Collection[int]) -> bool:
    return one.state == _LISTENS and one.port in ports


def _answers_at(one: _Socket, host: str) -> bool:
    return not one.host.strip("0") or _packed(one) in addresses_at(host)


def _sockets() -> Iterator[_Socket]:
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/net", name).read_text().splitlines()[1:]:
                fields = line.split()
                local, remote = (int(part.rpartition(":")[2], 16) for part in fields[1:3])
                yield _Socket(fields[1][:-5], local, remote, fields[3], int(fields[9]))


def _packed(one: _Socket) -> bytes:
    """Return the address of a socket, whose words /proc shows in the machine's order of bytes."""
    words = re.findall("(..)(..)(..)(..)", one.host)
    order = reversed if sys.byteorder == "little" else tuple
    return bytes.fromhex("".join(part for word in words for part in order(word)))


def _address(one: _Socket) -> str:
    import socket  # imported late because few runs show an address

    packed = _packed(one)
    if len(packed) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, packed)}:{one.port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{one.port}"


def _paths(inodes: Collection[int]) -> set[str]:
    """Return the paths of those Unix sockets with these inodes that listen."""
    found = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/net/unix").read_text(errors="replace").splitlines()[1:]:
            fields = line.split(maxsplit=7)
            if len(fields) > 7 and int(fields[3], 16) & _ACCEPTS and int(fields[6]) in inodes:
                found.add(fields[7])
    return found


def _inodes_of(pid: int) -> set[int]:
    """Return the inodes of the sockets that a process has open, as far as we may see them."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("socket:["):
                    found.add(int(target[8:-1]))
    return found
