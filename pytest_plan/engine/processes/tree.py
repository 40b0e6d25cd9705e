"""Process trees: found by session, descent and cookie, signalled and ended whole.

A tree is the descendants of its first process, the members of its session, and every process that
carries its cookie in the environment: a double-forked daemon leaves the first two, not the third.
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


COOKIE = "PYTEST_PLAN_COOKIE"


_FREEZE_ROUNDS = 50


_POLL = 0.02  # seconds between two looks at a tree that is ending


_KILL_WAIT = 1.0  # seconds that a killed process may take to disappear


class Tree(Protocol):
    """A process tree that can be ended: `Process`, `Leftovers` or `OrphanTree`."""

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """Ask it to end by signal `number`; kill what lives on after `grace` seconds."""


class Leftovers:
    """What programs have left running that were run to their end: daemons, by their cookie."""

    def __init__(self, cookie: str) -> None:
        self._cookie = cookie
        self._since = _created(os.getpid())

    def end(self, clock: Clock, number: int, grace: float) -> None:
        """Send `number` to each, and SIGKILL to those that still live after `grace` seconds."""
        signal_all(self._members(), number)
        wait_until(clock, lambda: not self._members(), grace)
        kill_all(clock, self._members)

    def _members(self) -> list[psutil.Process]:
        return tree_members(self._cookie, self._since)


_FREEZE = getattr(signal, "SIGSTOP", signal.SIGTERM)  # neither has Windows


KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL


def tree_members(
    cookie: str, since: float, *, root: int | None = None, session: int | None = None
) -> list[psutil.Process]:
    """Return the living processes that carry `cookie`, descend from `root` or share `session`.

    Args:
        cookie: what the tree has in its environment under `COOKIE`.
        since: when the first of them was created, in psutil's time: older ones are strangers.
        root: process id of the first process; None: it has gone.
        session: the id of their session; None: it is not theirs any more.
    """
    import psutil

    found: dict[int, psutil.Process] = {}
    if root is not None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(root)
            if carries(process, cookie):
                found = {child.pid: child for child in [process, *process.children(recursive=True)]}
    for process in psutil.process_iter():
        if process.pid in found or _created_of(process) < since:
            continue
        if (session is not None and _session(process.pid) == session) or carries(process, cookie):
            found[process.pid] = process
    return [process for process in found.values() if _lives(process)]


def _created(pid: int) -> float:
    import psutil

    try:
        return _created_of(psutil.Process(pid))
    except psutil.Error:
        return 0.0


def _created_of(process: psutil.Process) -> float:
    import psutil

    try:
        return process.create_time()
    except psutil.Error:
        return 0.0


def carries(process: psutil.Process, cookie: str) -> bool:
    """Whether the process has the cookie in its environment."""
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


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def signal_all(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to each process that still lives and is ours."""
    import psutil

    for process in processes:
        # It may have died since it was listed, or (session members) be another user's.
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            process.send_signal(number)


def kill_all(clock: Clock, members: Callable[[], list[psutil.Process]]) -> None:
    """Kill a tree that may go on forking: freeze who is found until nobody new is, then kill."""
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
    """Look until `done` says so, at most so many seconds."""
    condition = threading.Condition()
    deadline = clock.now() + seconds
    while not done() and clock.now() < deadline:
        with condition:
            clock.wait_for(condition, lambda: False, _POLL)
