"""Process trees of others, found again by what a journal tells. Real programs, short waits."""

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
from pytest_plan.engine.processes.orphan import OrphanTree
from pytest_plan.engine.processes.tree import COOKIE, KILL

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
    """Wait for what another process does."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.002)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start Python code with a cookie, and tell of it as a journal does."""
    started: list[tuple[subprocess.Popen[bytes], OrphanTree]] = []

    def start(code: str) -> OrphanTree:
        ready, since, cookie = tmp_path / f"ready{len(started)}", time.time(), os.urandom(16).hex()
        preamble = f"import os, pathlib, signal, subprocess, sys, time\nREADY = {str(ready)!r}\n"
        popen = subprocess.Popen(
            [sys.executable, "-c", preamble + textwrap.dedent(code)],
            env={**os.environ, COOKIE: cookie},
            start_new_session=True,
        )
        tree = OrphanTree(cookie, since, identify(popen.pid))
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
    """Return the living members of a tree."""
    return {member.pid for member in tree.members()}


def test_descendants_belong_to_it(start: Start) -> None:
    """Also those in sessions of their own, and without the cookie."""
    tree = start(FAMILY)
    children = {child.pid for child in psutil.Process(root(tree).pid).children()}
    assert len(children) == 3
    assert pids(tree) == {root(tree).pid, *children}
    tree.end(CLOCK, KILL, 0.0)
    assert not tree.is_alive()


def test_members_of_its_session_belong_to_it_when_the_root_has_gone(start: Start) -> None:
    """As long as one of them carries the cookie; so the one without it is found, too."""
    tree = start(FAMILY)
    family = pids(tree)
    os.kill(root(tree).pid, signal.SIGKILL)
    wait_until(lambda: not tree.is_alive())
    assert pids(tree) == family - {root(tree).pid}
    tree.end(CLOCK, signal.SIGTERM, LONGEST)
    assert pids(tree) == set()


def test_a_daemon_belongs_to_it(start: Start) -> None:
    """It carries the cookie, and nothing else leads to it."""
    tree = start(DAEMON)
    wait_until(lambda: not tree.is_alive())
    assert len(pids(tree)) == 1
    tree.end(CLOCK, signal.SIGTERM, LONGEST)
    assert pids(tree) == set()


def test_one_whose_root_was_not_noted_is_found(start: Start) -> None:
    """Its owner died between the start and the note."""
    tree = start(SLEEP)._replace(root=None)
    assert len(pids(tree)) == 1
    assert not tree.is_alive()
    tree.end(CLOCK, signal.SIGTERM, LONGEST)
    assert pids(tree) == set()


def test_a_program_that_obeys_is_not_killed(start: Start, tmp_path: Path) -> None:
    """It gets its signal and its grace."""
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


def test_one_that_does_not_is_killed_after_its_grace(start: Start) -> None:
    """And no sooner."""
    tree = start(DEAF)
    begun = time.monotonic()
    tree.end(CLOCK, signal.SIGTERM, 0.3)
    assert not tree.is_alive()
    assert 0.3 <= time.monotonic() - begun < LONGEST / 2


def test_a_stopped_program_is_ended(start: Start) -> None:
    """SIGTERM alone would wait for ever."""
    tree = start(SLEEP)
    os.kill(root(tree).pid, signal.SIGSTOP)
    tree.end(CLOCK, signal.SIGTERM, 0.1)
    assert not tree.is_alive()


class TestStrangers:
    """Who is left alone."""

    def test_nobody_after_a_reboot(self, start: Start) -> None:
        """Even if the number, the birth and the cookie were the same."""
        tree = start(SLEEP)
        rebooted = tree._replace(root=root(tree)._replace(boot="old"))
        assert rebooted.members() == []
        rebooted.end(CLOCK, KILL, 0.0)
        assert tree.is_alive()

    def test_a_process_with_its_number(self, start: Start) -> None:
        """It was born at another time, and has no cookie of the tree."""
        stranger = start(SLEEP)
        who = root(stranger)._replace(birth="1")
        tree = OrphanTree("another", stranger.since, who)
        assert tree.members() == []
        tree.end(CLOCK, KILL, 0.0)
        assert stranger.is_alive()

    def test_the_session_that_has_its_number_now(self, start: Start) -> None:
        """None of its members carries the cookie."""
        stranger = start(FAMILY)
        tree = OrphanTree("another", stranger.since, root(stranger)._replace(birth="1"))
        assert tree.members() == []

    def test_one_that_was_known_to_be_gone(self, start: Start) -> None:
        """Its birth could not be noted: no process is taken for it."""
        stranger = start(SLEEP)
        who = root(stranger)._replace(birth="")
        assert not OrphanTree("another", stranger.since, who).is_alive()
        assert OrphanTree("another", stranger.since, who).members() == []


def test_ending_what_has_gone_is_no_error(start: Start) -> None:
    """It may have died between listing and signal."""
    tree = start(SLEEP)
    tree.end(CLOCK, KILL, 0.0)
    tree.end(CLOCK, signal.SIGTERM, LONGEST)
