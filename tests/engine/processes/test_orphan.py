"""Process trees of an ended process, found again from the journal. Real programs, short waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.processes.identity import Identity, identify
from pytest_plan.engine.processes.marks import COOKIE, Marks
from pytest_plan.engine.processes.orphan import OrphanTree
from pytest_plan.engine.processes.tree import KILL

CLOCK = SystemClock()
LONGEST = 10.0
SLEEP = """
    pathlib.Path(READY).touch()
    time.sleep(60)
"""
DEAF = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path(READY).touch()
    time.sleep(60)
"""
FAMILY = """
    child = "import time; print(flush=True); time.sleep(60)"
    children = [
        subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, **own)
        for own in ({}, {"start_new_session": True}, {"env": {}})
    ]
    for child in children:
        child.stdout.readline()
    pathlib.Path(READY).touch()
    time.sleep(60)
"""
DAEMON = """
    if os.fork():
        os.wait()
        while not pathlib.Path(READY).exists():
            time.sleep(0.002)
        sys.exit()
    os.setsid()
    if os.fork():
        os._exit(0)
    pathlib.Path(READY).touch()
    time.sleep(60)
"""

Start = Callable[[str], OrphanTree]


def wait_until(done: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start Python code with a cookie, and describe it as a journal does."""
    started: list[tuple[subprocess.Popen[bytes], OrphanTree]] = []

    def start(code: str) -> OrphanTree:
        ready, cookie = tmp_path / f"ready{len(started)}", os.urandom(16).hex()
        preamble = f"import os, pathlib, signal, subprocess, sys, time\nREADY = {str(ready)!r}\n"
        popen = subprocess.Popen(
            [sys.executable, "-c", preamble + textwrap.dedent(code)],
            env={**os.environ, COOKIE: cookie},
            start_new_session=True,
        )
        tree = OrphanTree(Marks(cookie), identify(popen.pid))
        started.append((popen, tree))
        wait_until(ready.exists)
        return tree

    yield start
    for popen, tree in started:
        tree._replace(root=None).end(CLOCK, KILL, 0.0)
        popen.kill()
        popen.wait()


def root(tree: OrphanTree) -> Identity:
    """Return the first process of a tree."""
    assert tree.root is not None
    return tree.root


def pids(tree: OrphanTree) -> set[int]:
    """Return the pids of the running members of a tree."""
    return {member.pid for member in tree.members()}


def test_descendants_are_members(start: Start) -> None:
    """This includes those in another session and those without the cookie."""
    tree = start(FAMILY)
    children = {child.pid for child in psutil.Process(root(tree).pid).children()}
    assert len(children) == 3
    assert pids(tree) == {root(tree).pid, *children}
    tree.end(CLOCK, KILL, 0.0)
    assert not tree.is_alive()


def test_the_session_is_still_found_after_the_root_has_ended(start: Start) -> None:
    """While one of them has the cookie, session members without it are found as well."""
    tree = start(FAMILY)
    family = pids(tree)
    os.kill(root(tree).pid, signal.SIGKILL)
    wait_until(lambda: not tree.is_alive())
    assert pids(tree) == family - {root(tree).pid}
    tree.end(CLOCK, signal.SIGTERM, LONGEST)
    assert pids(tree) == set()


def test_a_daemon_is_a_member(start: Start) -> None:
    """It is found by its cookie alone."""
    tree = start(DAEMON)
    wait_until(lambda: not tree.is_alive())
    assert len(pids(tree)) == 1
    tree.end(CLOCK, signal.SIGTERM, LONGEST)
    assert pids(tree) == set()


def test_a_tree_without_a_recorded_root_is_found(start: Start) -> None:
    """Its owner may die after starting the program and before recording its pid."""
    tree = start(SLEEP)._replace(root=None)
    assert len(pids(tree)) == 1
    assert not tree.is_alive()
    tree.end(CLOCK, signal.SIGTERM, LONGEST)
    assert pids(tree) == set()


def test_a_program_that_reacts_to_the_signal_is_not_killed(start: Start, tmp_path: Path) -> None:
    """It gets the given signal and has time to stop."""
    tree = start("""
        def leave(*_):
            pathlib.Path(READY + ".left").touch()
            sys.exit()
        signal.signal(signal.SIGINT, leave)
        pathlib.Path(READY).touch()
        time.sleep(60)
    """)
    begun = time.monotonic()
    tree.end(CLOCK, signal.SIGINT, LONGEST)
    assert (tmp_path / "ready0.left").exists()
    assert time.monotonic() - begun < LONGEST / 2


def test_a_program_that_ignores_the_signal_is_killed(start: Start) -> None:
    """It is not killed before the grace has passed."""
    tree = start(DEAF)
    begun = time.monotonic()
    tree.end(CLOCK, signal.SIGTERM, 0.3)
    assert not tree.is_alive()
    assert 0.3 <= time.monotonic() - begun < LONGEST / 2


def test_a_stopped_program_is_ended(start: Start) -> None:
    """A stopped process does not react to SIGTERM, so SIGKILL must follow."""
    tree = start(SLEEP)
    os.kill(root(tree).pid, signal.SIGSTOP)
    tree.end(CLOCK, signal.SIGTERM, 0.1)
    assert not tree.is_alive()


class TestStrangers:
    """Processes that are not members, and must not be signalled."""

    def test_there_are_no_members_after_a_reboot(self, start: Start) -> None:
        """This holds even if pid, start time and cookie are the same."""
        tree = start(SLEEP)
        rebooted = tree._replace(root=root(tree)._replace(boot="old"))
        assert rebooted.members() == []
        rebooted.end(CLOCK, KILL, 0.0)
        assert tree.is_alive()

    def test_a_process_with_the_same_pid(self, start: Start) -> None:
        """It has another start time, and not the cookie of the tree."""
        stranger = start(SLEEP)
        who = root(stranger)._replace(birth="1")
        tree = OrphanTree(Marks("another"), who)
        assert tree.members() == []
        tree.end(CLOCK, KILL, 0.0)
        assert stranger.is_alive()

    def test_a_session_with_the_same_id(self, start: Start) -> None:
        """None of its members has the cookie."""
        stranger = start(FAMILY)
        tree = OrphanTree(Marks("another"), root(stranger)._replace(birth="1"))
        assert tree.members() == []

    def test_a_root_without_a_birth_matches_no_process(self, start: Start) -> None:
        """The root had ended before its start time could be recorded."""
        stranger = start(SLEEP)
        who = root(stranger)._replace(birth="")
        assert not OrphanTree(Marks("another"), who).is_alive()
        assert OrphanTree(Marks("another"), who).members() == []


def test_ending_an_ended_tree_does_nothing(start: Start) -> None:
    """A tree may end by itself before it is signalled."""
    tree = start(SLEEP)
    tree.end(CLOCK, KILL, 0.0)
    tree.end(CLOCK, signal.SIGTERM, LONGEST)
