"""The watcher notices that programs end, by descriptors or by looking."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.processes.identity import Identity
from pytest_plan.engine.processes.process import Process, spawn
from pytest_plan.engine.shared.programs.watched import Kept, Program, Watched
from pytest_plan.engine.shared.programs.watcher import Watcher

LOG: Any = None  # the watcher does not use it


class Losses(list[str]):
    """The steps that were lost; a list that can be waited for."""

    def __call__(self, step: str, watched: Watched) -> None:
        """Record a loss."""
        self.append(step)

    def wait(self, count: int = 1) -> list[str]:
        """Wait until there are `count` losses."""
        until = time.monotonic() + 20
        while len(self) < count:
            assert time.monotonic() < until
            time.sleep(0.005)
        return list(self)


@pytest.fixture
def losses() -> Losses:
    """The losses that the watcher reports."""
    return Losses()


@pytest.fixture(params=["descriptors", "looks"])
def watcher(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, losses: Losses
) -> Iterator[Watcher]:
    """A watcher, on a system with descriptors of processes or without."""
    if request.param == "looks":
        monkeypatch.setattr(os, "pidfd_open", _refuse(errno.ENOSYS), raising=False)
    elif not hasattr(os, "pidfd_open"):
        pytest.skip("no descriptors of processes here")
    made = Watcher(losses, SystemClock.now, lambda: False)
    yield made
    made.end()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts programs, and kills them at the end."""
    started = []

    def start(*argv: str) -> Process:
        process = spawn(argv, output=subprocess.DEVNULL, errors=subprocess.DEVNULL)
        started.append(process)
        return process

    yield start
    for process in started:
        process.end(SystemClock(), signal.SIGKILL, 0.0)


def _refuse(number: int) -> Callable[[int], int]:
    def refuse(pid: int) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


def program(process: Process) -> Program:
    """Return what a step has started, as the watcher sees it."""
    return Program(process, LOG, None, (), 0.0)


def test_a_program_that_is_killed_is_lost_once(
    watcher: Watcher, losses: Losses, start: Callable[..., Process]
) -> None:
    """The thread notices it without being asked, and others are still watched."""
    one, two = start("sleep", "60"), start("sleep", "60")
    watcher.add("one", [program(one)])
    watcher.add("two", [program(two)])
    os.kill(one.pid, signal.SIGKILL)
    assert losses.wait() == ["one"]
    watcher.look()
    os.kill(two.pid, signal.SIGKILL)
    assert losses.wait(2) == ["one", "two"]


def test_a_program_that_has_ended_before_is_lost_at_once(
    watcher: Watcher, losses: Losses, start: Callable[..., Process]
) -> None:
    """It needs no descriptor, and no thread."""
    process = start("false")
    process.wait()
    process.may_end = False
    watcher.add("one", [program(process)])
    assert losses == ["one"]


def test_the_end_of_the_watch_looks_for_the_last_time(
    watcher: Watcher, losses: Losses, start: Callable[..., Process]
) -> None:
    """A program that ends just before that is not missed; one that ends later is no loss."""
    one, two = start("sleep", "60"), start("sleep", "60")
    watcher.add("s", [program(one), program(two)])
    os.kill(one.pid, signal.SIGKILL)
    _await_end(one.pid)
    watcher.end()
    assert losses == ["s"]
    two.send_signal(signal.SIGKILL)
    watcher.look()
    assert losses == ["s"]


def test_a_program_that_its_step_ends_is_no_loss(
    watcher: Watcher, losses: Losses, start: Callable[..., Process]
) -> None:
    """`Process.end` lets it end before it sends the signal."""
    process = start("sleep", "60")
    watcher.add("s", [program(process)])
    process.end(SystemClock(), signal.SIGTERM, 5.0)
    watcher.look(0.1)
    watcher.end()
    assert losses == []


def test_the_pid_of_another_process_is_not_mistaken_for_a_program(
    watcher: Watcher, losses: Losses
) -> None:
    """A process is known by its start time, too: this one has another one."""
    stranger = Identity(os.getpid(), "1", "boot")
    watcher.add("s", [Kept(stranger, LOG)])
    assert losses == ["s"]


def test_a_process_for_which_there_is_no_descriptor_is_looked_for(
    losses: Losses, start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process may have too many files open when a program is added."""
    watcher = Watcher(losses, SystemClock.now, lambda: False)
    monkeypatch.setattr(os, "pidfd_open", _refuse(errno.EMFILE), raising=False)
    process = start("sleep", "60")
    watcher.add("s", [program(process)])
    os.kill(process.pid, signal.SIGKILL)
    assert losses.wait() == ["s"]
    watcher.end()


def test_a_copy_of_the_process_looks_at_nothing(
    losses: Losses, start: Callable[..., Process]
) -> None:
    """A forked copy has no thread, and its lock may be held forever."""
    is_copied = [False]
    watcher = Watcher(losses, SystemClock.now, lambda: is_copied[0])
    process = start("false")
    process.wait()
    process.may_end = False
    is_copied[0] = True
    watcher.add("s", [program(process)])
    watcher.look()
    watcher.end()
    assert losses == []
    is_copied[0] = False
    watcher.end()


@pytest.mark.skipif(sys.platform != "linux", reason="it lists the descriptors in /proc")
def test_the_end_of_the_watch_closes_all_descriptors(
    losses: Losses, start: Callable[..., Process]
) -> None:
    """Neither those of processes nor those of the thread are left."""
    process = start("sleep", "60")
    before = set(os.listdir("/proc/self/fd"))
    watcher = Watcher(losses, SystemClock.now, lambda: False)
    watcher.add("s", [program(process)])
    assert len(os.listdir("/proc/self/fd")) > len(before)
    watcher.end()
    assert set(os.listdir("/proc/self/fd")) == before


def _await_end(pid: int) -> None:
    until = time.monotonic() + 20
    with contextlib.suppress(psutil.NoSuchProcess):  # the watcher may have noticed it already
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until
            time.sleep(0.005)
