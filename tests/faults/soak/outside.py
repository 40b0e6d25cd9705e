"""What the machine shows of a run: processes and listening ports. Knows nothing of pytest-plan.

A process belongs to a run if its environment contains the run's random word, or if the path of the
run's folder is in its arguments or is that of its working directory, program or an open file. The
environment of a daemon may be empty.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

_LISTENING = "0A"  # a state in /proc/net/tcp
_PROC = Path("/proc")


class Found(NamedTuple):
    """A live process: its id, its arguments, and where the mark was found."""

    pid: int
    argv: str
    mark: str

    def __str__(self) -> str:
        return f"{self.argv!r} (pid {self.pid}, known by its {self.mark})"


def processes(mark: str, folder: Path) -> list[Found]:
    """Return all live processes of a run."""
    return [found for pid in _pids() if (found := _found(pid, mark, str(folder)))]


def listeners(ports: Collection[int]) -> dict[int, str]:
    """Return the program that listens on each of these ports."""
    inodes = {f"socket:[{inode}]": port for port, inode in _listening() if port in ports}
    found = dict.fromkeys(inodes.values(), "an unknown process")
    for pid in _pids() if inodes else ():
        for link in _links(pid):
            if link in inodes:
                found[inodes[link]] = f"{_argv(pid)!r} (pid {pid})"
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]


def _found(pid: int, mark: str, folder: str) -> Found | None:
    argv = _argv(pid)  # empty for a zombie
    if not argv:
        return None
    if mark in _read(pid, "environ"):
        return Found(pid, argv, "environment")
    if folder in argv:
        return Found(pid, argv, "arguments")
    if any(link.startswith(folder) for link in _links(pid)):
        return Found(pid, argv, "files")
    return None


def _argv(pid: int) -> str:
    return _read(pid, "cmdline").replace("\0", " ").strip()


def _read(pid: int, name: str) -> str:
    try:
        return (_PROC / str(pid) / name).read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def _links(pid: int) -> Iterator[str]:
    folder = _PROC / str(pid)
    paths = [folder / "cwd", folder / "exe"]
    with contextlib.suppress(OSError):
        paths += [folder / "fd" / name for name in os.listdir(folder / "fd")]
    for path in paths:
        with contextlib.suppress(OSError):
            yield os.readlink(path)


def _listening() -> Iterator[tuple[int, str]]:
    for name in ("tcp", "tcp6"):
        table = _PROC / "net" / name
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == _LISTENING:
                yield int(fields[1].rpartition(":")[2], 16), fields[9]
