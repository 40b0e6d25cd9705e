"""Identities of processes, and the table of all processes.

A pid alone is no identity, because the system reuses pids. Start times are only compared with each
other, never with the wall clock, which can be set back.
"""

# Annotations are not postponed: a NamedTuple would compile each of them, in the reaper's program.
import contextlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

from pytest_plan.engine.processes.copies import getpid


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

    def send_signal(self, number: int) -> None:
        """Send a signal to exactly this process. Do nothing if it has ended or is not ours."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    def __str__(self) -> str:
        return f"{name_of(self.pid)!r} (pid {self.pid})"


class Owner(NamedTuple):
    """A process that has made something which must outlive it, and where that process runs.

    Attributes:
        pid: its process id.
        birth: its start time, as in `Identity`.
        boot: the boot id of the system, as in `Identity`.
        host: the name of its host.
        namespace: its process-id namespace; empty if the system has none.
    """

    pid: int
    birth: str
    boot: str
    host: str
    namespace: str

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs where this process cannot see it: on another host or in a container."""
        return (self.host, self.namespace) != (host(), namespace())

    @property
    def may_live(self) -> bool:
        """Whether it is running, or is elsewhere, so that this process cannot know."""
        return self.is_elsewhere or Identity(self.pid, self.birth, self.boot).is_alive()


class Entry(NamedTuple):
    """A running process in the process table.

    Attributes:
        parent: the process id of its parent.
        session: the id of its session; -1 if it is unknown.
        birth: its start time, as in `Identity`.
    """

    parent: int
    session: int
    birth: str


def process_table() -> dict[int, Entry]:
    """Return the running processes that this process can see, by process id."""
    if not Path("/proc/self/stat").exists():
        return _table_by_psutil()
    found = (
        (int(name), _entry_on_linux(int(name))) for name in os.listdir("/proc") if name.isdigit()
    )
    return {pid: entry for pid, entry in found if entry is not None}


def pids() -> frozenset[int]:
    """Return the ids of all processes that this process can see; on Linux only, else none."""
    try:
        return frozenset(int(name) for name in os.listdir("/proc") if name.isdigit())
    except OSError:
        return frozenset()


def newest_pid() -> int | None:
    """Return the process id that the system gave out last; None if the system does not tell."""
    try:
        with open("/proc/loadavg", "rb") as file:
            return int(file.read().split()[4])
    except (OSError, IndexError, ValueError):
        return None


def read_proc(pid: int, name: str) -> bytes:
    """Return the content of a file in `/proc/PID`. A scan reads hundreds, so this must be fast."""
    file = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = part = os.read(file, 65536)
        while part:
            part = os.read(file, 65536)
            content += part
        return content
    finally:
        os.close(file)


def name_of(pid: int) -> str:
    """Return the name of the program that a process runs, or "?" if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        pass
    import psutil

    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "?"


def identify(pid: int) -> Identity:
    """Return the identity of a process; its `birth` is empty if the process has ended."""
    return Identity(pid, birth_of(pid), boot_id())


def ourselves() -> Identity:
    """Return the identity of this process."""
    return identify(getpid())


def this_owner() -> Owner:
    """Return this process as the owner of what it makes."""
    return Owner(*ourselves(), host(), namespace())


def host() -> str:
    """Return the name of this host."""
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")


def namespace() -> str:
    """Return the process-id namespace of this process; empty if the system has none.

    Raises:
        OSError: as for `boot_id`.
    """
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        _check_proc()
        return ""


def _check_proc() -> None:
    if sys.platform == "linux" and not os.path.exists("/proc/stat"):
        raise OSError(
            "no process can be identified, because /proc is not mounted; to mount it: "
            "mount -t proc proc /proc"
        )


def session_of(pid: int) -> int:
    """Return the id of the session of a process; -1 if it is unknown."""
    try:
        return os.getsid(pid)
    except (OSError, AttributeError):
        return -1


def boot_id() -> str:
    """Return a value that changes with every boot of the system.

    Raises:
        OSError: the system is Linux and /proc is not mounted, so no process can be identified.
    """
    file = Path("/proc/sys/kernel/random/boot_id")
    if file.exists():
        return file.read_text().strip()
    _check_proc()
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
    entry = _entry_on_linux(pid)
    return "" if entry is None else entry.birth


def _entry_on_linux(pid: int) -> Entry | None:
    try:
        # The program name precedes these fields, in parentheses, and may contain any character.
        content = read_proc(pid, "stat")
    except OSError:
        return None
    fields = content.rpartition(b")")[2].decode().split()
    # A process whose main thread has ended is also in state Z while its other threads are running.
    if fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1):
        return None
    return Entry(int(fields[1]), int(fields[3]), fields[19])


def _table_by_psutil() -> dict[int, Entry]:
    import psutil

    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if birth := birth_of(process.pid):
                found[process.pid] = Entry(process.ppid(), session_of(process.pid), birth)
    return found
