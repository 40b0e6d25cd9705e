"""Notices when a program that must keep running while tests use its step ends."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from pytest_plan.engine.model.clock import Flag, SystemClock
from pytest_plan.engine.processes.copies import getpid
from pytest_plan.engine.processes.identity import Identity
from pytest_plan.engine.shared.programs.watched import Watched

INTERVAL = 0.5  # seconds between two looks, on a system without descriptors of processes
_PATIENCE = 2.0  # seconds to wait for the thread at the end
_TRIES = 100  # how often a program is asked that has ended, but has no status yet
_NAP = 0.001
_NO_DESCRIPTOR = -1
_PAUSE = 0.1  # seconds between two looks without descriptors, which take as long as many tests

Lost = Callable[[str, Watched], None]


class Ends(Protocol):
    """A set of processes, by which the end of one of them is noticed."""

    def add(self, process: Identity, entry: _Entry) -> bool:
        """Add a process; return False if it has ended already."""

    def ended(self, *, at_once: bool) -> list[_Entry]:
        """Return what has to be asked whether it has ended.

        Args:
            at_once: whether the answer may not be some time old.
        """

    def discard(self, entry: _Entry) -> None:
        """Remove the processes of an entry."""

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until something has ended, at most `seconds`; return False after `interrupt`."""

    def interrupt(self) -> None:
        """End all waits, now and later."""

    def close(self) -> None:
        """Release everything; nothing is called any more."""


class _Entry:
    """Something that is watched: its step, and the processes by which its end is noticed."""

    __slots__ = ("processes", "step", "watched")

    def __init__(self, step: str, watched: Watched) -> None:
        self.step = step
        self.watched = watched
        self.processes: dict[Identity, int] = {}


class Watcher:
    """Watches programs on a thread, and whenever it is asked to look.

    Args:
        lost: a function to call, on any thread, with the step and what has ended. It is called at
            most once for each program, never while another call of it runs.
        now: a function that returns the time on the plan's clock.
        is_copied: a function that returns whether this process is a forked copy, which watches
            nothing.
    """

    def __init__(self, lost: Lost, now: Callable[[], float], is_copied: Callable[[], bool]) -> None:
        self._lost = lost
        self._now = now
        self._is_copied = is_copied
        # Guards the attributes below, and is held while a program is asked and `lost` is called:
        # a look on the main thread must not miss what this thread has just noticed.
        self._lock = threading.RLock()
        self._ends = _ends()
        self._entries: list[_Entry] = []
        self._thread: threading.Thread | None = None
        self._is_over = False
        self._has_ended = Flag()

    def add(self, step: str, programs: Iterable[Watched]) -> None:
        """Watch programs of a step; one that has ended already is lost now."""
        with self._lock:
            if self._is_over or self._is_copied():
                return
            for watched in programs:
                if all(entry.watched is not watched for entry in self._entries):
                    entry = _Entry(step, watched)
                    self._entries.append(entry)
                    self._ask(entry, is_new=True)
            if self._thread is None and self._entries:
                self._start()

    def look(self, patience: float = 0.0) -> None:
        """Notice now what has ended.

        Args:
            patience: the seconds to wait for that, as the sockets of a process are closed some time
                before it has ended.
        """
        if self._is_copied():  # the lock of a copy may be held forever
            return
        if patience and self._entries:
            self._ends.wait(patience)
        with self._lock:
            for entry in () if self._is_over else self._ends.ended(at_once=patience > 0.0):
                self._ask(entry)

    def end(self) -> None:
        """Look for the last time, and watch nothing any more."""
        if self._is_copied():
            return
        with self._lock:
            if self._is_over:
                return
            for entry in list(self._entries):
                self._ask(entry)
            self._entries.clear()
            self._is_over = True
        self._ends.interrupt()
        if self._thread is None or self._has_ended.wait(_PATIENCE):
            self._ends.close()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="plan-watcher", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # then only those who look notice something
            self._has_ended.set()

    def _watch(self) -> None:
        try:
            while self._ends.wait():
                self.look()
        finally:
            self._has_ended.set()

    def _ask(self, entry: _Entry, *, is_new: bool = False) -> None:
        """Find out whether a program is lost; if it is not, watch the processes that are left.

        Args:
            entry: the program.
            is_new: whether it was not watched before, so that it may have ended some time ago.
        """
        if entry not in self._entries:
            return
        watched = entry.watched
        for _ in range(_TRIES):
            if watched.may_end():
                break
            now = self._now()
            if watched.is_lost(now, waiting=True) if is_new else watched.has_ended(now):
                self._lost(entry.step, watched)
                break
            if watched.may_end():
                break
            left = [one for one in watched.awaited() if one not in entry.processes]
            if all([self._ends.add(one, entry) for one in left]) and entry.processes:
                return
            SystemClock.sleep(_NAP)
        self._ends.discard(entry)
        self._entries.remove(entry)


class _Descriptors:
    """Descriptors of processes, which can be waited for: Linux."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._entries: dict[int, tuple[Identity, _Entry]] = {}
        self._rest = _Looks()  # the processes for which there was no descriptor

    def add(self, process: Identity, entry: _Entry) -> bool:
        """Add a process; return False if it has ended already."""
        try:
            number = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return False
        except OSError:  # this process has too many files open
            return self._rest.add(process, entry)
        if not process.is_alive():  # otherwise the descriptor may be that of another process
            os.close(number)
            return False
        self._entries[number] = process, entry
        entry.processes[process] = number
        self._poll.register(number, select.EPOLLIN)
        return True

    def ended(self, *, at_once: bool) -> list[_Entry]:
        """Return the entries of which a process has ended, and forget those processes."""
        found = self._rest.ended(at_once=at_once) if self._rest.is_needed else []
        for number, _ in self._poll.poll(0):
            if number in self._entries:
                process, entry = self._entries[number]
                self._close(number)
                del entry.processes[process]
                found.append(entry)
        return found

    def discard(self, entry: _Entry) -> None:
        """Remove the processes of an entry."""
        for number in entry.processes.values():
            if number in self._entries:
                self._close(number)
        self._rest.discard(entry)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until a process has ended, at most `seconds`; return False after `interrupt`."""
        if seconds is None and self._rest.is_needed:
            seconds = INTERVAL
        return all(number != self._wake for number, _ in self._poll.poll(seconds))

    def interrupt(self) -> None:
        """End all waits, now and later."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Close all descriptors."""
        for number in list(self._entries):
            self._close(number)
        self._poll.close()
        os.close(self._wake)

    def _close(self, number: int) -> None:
        # A forked copy of this process may still have the descriptor: closing it is not enough.
        del self._entries[number]
        with contextlib.suppress(OSError):
            self._poll.unregister(number)
        os.close(number)


class _Looks:
    """Processes that are looked for at regular times: systems without such descriptors."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._is_over = Flag()
        self._next_look = 0.0

    @property
    def is_needed(self) -> bool:
        """Whether there are processes to look for."""
        return bool(self._entries)

    def add(self, process: Identity, entry: _Entry) -> bool:
        """Add a process; return False if it has ended already."""
        if not process.is_alive():
            return False
        entry.processes[process] = _NO_DESCRIPTOR
        if entry not in self._entries:
            self._entries.append(entry)
        return True

    def ended(self, *, at_once: bool) -> list[_Entry]:
        """Return the entries of which a process has ended, and forget those processes."""
        found: list[_Entry] = []
        now = SystemClock.now()
        if now < self._next_look and not at_once:
            return found
        self._next_look = now + _PAUSE
        for entry in self._entries:
            gone = [process for process in entry.processes if not process.is_alive()]
            for process in gone:
                del entry.processes[process]
            if gone:
                found.append(entry)
        return found

    def discard(self, entry: _Entry) -> None:
        """Remove the processes of an entry."""
        entry.processes.clear()
        if entry in self._entries:
            self._entries.remove(entry)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is time to look again; return False after `interrupt`."""
        return not self._is_over.wait(INTERVAL if seconds is None else seconds)

    def interrupt(self) -> None:
        """End all waits, now and later."""
        self._is_over.set()

    def close(self) -> None:
        """Forget everything."""
        self._entries.clear()


def _ends() -> Ends:
    if sys.platform != "linux":
        return _Looks()
    try:
        os.close(os.pidfd_open(getpid()))
        return _Descriptors()
    except (OSError, AttributeError):  # an old system, or a sandbox that forbids it
        return _Looks()
