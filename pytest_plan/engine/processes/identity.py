"""Identities of processes. A pid alone is no identity, because the system reuses pids."""

# Annotations are not postponed: a NamedTuple would compile each of them, in the reaper's program.
import os
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """The identity of a process, which no other process ever has.

    Attributes:
        pid: its process id.
        birth: its start time in the system's own unit; empty if the process had already ended.
        boot: the boot id of the system that runs it.
    """

    pid: int
    birth: str
    boot: str

    def is_alive(self) -> bool:
        """Whether exactly this process is still running."""
        if not self.birth or self.boot != boot_id():
            return False
        return birth_of(self.pid) == self.birth


def identify(pid: int) -> Identity:
    """Return the identity of a process; its `birth` is empty if the process has ended."""
    return Identity(pid, birth_of(pid), boot_id())


def ourselves() -> Identity:
    """Return the identity of this process."""
    return identify(os.getpid())


def boot_id() -> str:
    """Return a value that changes with every boot of the system."""
    file = Path("/proc/sys/kernel/random/boot_id")
    if file.exists():
        return file.read_text().strip()
    import psutil

    return str(round(psutil.boot_time()))


def birth_of(pid: int) -> str:
    """Return the start time of a process, or "" if it does not exist or is a zombie."""
    if Path("/proc/self/stat").exists():
        return _birth_on_linux(pid)
    import psutil

    try:
        process = psutil.Process(pid)
        is_gone = process.status() == psutil.STATUS_ZOMBIE
        return "" if is_gone else str(process.create_time())
    except psutil.Error:
        return ""


def _birth_on_linux(pid: int) -> str:
    try:
        # The program name precedes these fields, in parentheses, and may contain any character.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
