"""Process trees, whose members are found by session, descent and cookie, and ended together.

A tree consists of its first process (the root) and all descendants, the members of its session, and
every process with its cookie in the environment. A daemon that forks twice and leaves the session
still has the cookie.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from pytest_plan.engine.model.clock import Clock

if TYPE_CHECKING:
    import psutil

COOKIE = "PYTEST_PLAN_COOKIE"  # the environment variable that marks the members of a tree
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL

_FREEZE = getattr(signal, "SIGSTOP", signal.SIGTERM)  # Windows lacks SIGSTOP too
_FREEZE_ROUNDS = 50  # the maximum number of rounds for stopping a tree that keeps forking
_POLL = 0.02  # seconds between two checks whether a tree has ended
_KILL_WAIT = 1.0  # how many seconds killed processes may take to disappear


class Tree(Protocol):
    """The interface of a process tree: `Process`, `Leftovers` or `OrphanTree`."""

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """Ask the tree to end, then kill the processes that are still running.

        Args:
            clock: the clock for the waits.
            number: the signal that asks the tree to end.
            grace: the seconds that the tree may take before it is killed.

        Raises:
            TimeoutError: some processes survived SIGKILL; the message lists their pids.
        """


class Leftovers:
    """The daemons that ended programs left running. They are found by their cookie."""

    def __init__(self, cookie: str) -> None:
        self._cookie = cookie
        self._since = created_at(os.getpid())

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """Send `number` to each daemon; after `grace` seconds send SIGKILL to those that remain."""
        signal_all(self._members(), number)
        wait_until(clock, lambda: not self._members(), grace)
        kill_all(clock, self._members)

    def _members(self) -> list[psutil.Process]:
        return tree_members(self._cookie, self._since)


def tree_members(
    cookie: str, since: float, *, root: int | None = None, session: int | None = None
) -> list[psutil.Process]:
    """Return the running processes that have `cookie`, descend from `root` or are in `session`.

    Args:
        cookie: the value of `COOKIE` in the environment of the tree.
        since: the start time of the first process, as psutil returns it; older processes are left
            out.
        root: the process id of the first process; None means that the process has ended.
        session: the id of the tree's session; None means that sessions are not compared.
    """
    import psutil

    found: dict[int, psutil.Process] = {}
    if root is not None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(root)
            if carries(process, cookie):
                found = {child.pid: child for child in [process, *process.children(recursive=True)]}
    for process in psutil.process_iter():
        if process.pid in found or _created(process) < since:
            continue
        if (session is not None and _session(process.pid) == session) or carries(process, cookie):
            found[process.pid] = process
    return [process for process in found.values() if is_alive(process)]


def created_at(pid: int) -> float:
    """Return the start time of a process as psutil returns it, or 0 if the process has ended."""
    import psutil

    try:
        return _created(psutil.Process(pid))
    except psutil.Error:
        return 0.0


def _created(process: psutil.Process) -> float:
    import psutil

    try:
        return process.create_time()
    except psutil.Error:
        return 0.0


def carries(process: psutil.Process, cookie: str) -> bool:
    """Return whether the process has `cookie` in its environment."""
    import psutil

    try:
        return process.environ().get(COOKIE) == cookie
    except (psutil.Error, OSError):
        return False


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (OSError, AttributeError):
        return None


def is_alive(process: psutil.Process) -> bool:
    """Return whether the process is running and is not a zombie."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def signal_all(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to each process that is still running and that we may signal."""
    import psutil

    for process in processes:
        # The process may have ended since it was listed, or may belong to another user.
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            process.send_signal(number)


def kill_all(clock: Clock, members: Callable[[], list[psutil.Process]]) -> None:
    """Kill a tree, even one that keeps forking.

    This stops processes in rounds until it finds no new one, and then kills all of them.

    Args:
        clock: the clock for the wait until the killed processes disappear.
        members: a function that returns the running processes of the tree.
    """
    frozen: set[int] = set()
    for _ in range(_FREEZE_ROUNDS):
        found = [process for process in members() if process.pid not in frozen]
        if not found:
            break
        signal_all(found, _FREEZE)
        frozen |= {process.pid for process in found}
    signal_all(members(), KILL)
    wait_until(clock, lambda: not members(), _KILL_WAIT)


def wait_until(clock: Clock, done: Callable[[], bool], seconds: float) -> None:
    """Poll `done` until it returns true, for at most `seconds` seconds."""
    condition = threading.Condition()
    deadline = clock.now() + seconds
    while not done() and clock.now() < deadline:
        with condition:
            clock.wait_for(condition, lambda: False, _POLL)
