"""Which process a number means: numbers are used again, and void after a reboot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """A process, so that no stranger can be taken for it.

    Attributes:
        pid: its number.
        birth: when it began, as the system counts.
        boot: the boot of the system that it lives in.
    """

    pid: int
    birth: str
    boot: str

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        if not self.birth or self.boot != boot_id():
            return False
        return birth_of(self.pid) == self.birth


def identify(pid: int) -> Identity:
    """Return the identity of a process; its birth is empty when it has gone."""
    return Identity(pid, birth_of(pid), boot_id())


def ourselves() -> Identity:
    """Return the identity of this process."""
    return identify(os.getpid())


def boot_id() -> str:
    """Return what changes with every start of the system."""
    file = Path("/proc/sys/kernel/random/boot_id")
    if file.exists():
        return file.read_text().strip()
    import psutil

    return str(round(psutil.boot_time()))


def birth_of(pid: int) -> str:
    """Return when a process began, empty when there is none or it is a zombie."""
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
        # The name of the program, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
