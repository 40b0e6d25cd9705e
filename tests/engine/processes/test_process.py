"""Process trees: found again and ended whole. Real programs, and so real (short) time."""

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
from pytest_plan.engine.processes.process import Process, spawn
from pytest_plan.engine.processes.tree import COOKIE, tree_members

CLOCK = SystemClock()
LONGEST = 10.0

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start Python code as a process tree; wait until it says that it is ready."""
    started: list[Process] = []

    def start(code: str) -> Process:
        ready = tmp_path / f"ready{len(started)}"
        preamble = f"import os, pathlib, signal, subprocess, sys, time\nREADY = {str(ready)!r}\n"
        process = spawn(
            [sys.executable, "-c", preamble + textwrap.dedent(code)],
            output=subprocess.DEVNULL,
            errors=None,  # type: ignore[arg-type]
        )
        started.append(process)
        wait_until(ready.exists)
        return process

    yield start
    for process in started:
        process.end(CLOCK, signal.SIGKILL, 0.0)


def wait_until(done: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.002)


def pids(process: Process) -> set[int]:
    """Return the living members of a tree."""
    return {member.pid for member in process.members()}


SLEEP = """
    pathlib.Path(READY).touch()
    time.sleep(60)
"""
DEAF = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path(READY).touch()
    time.sleep(60)
"""
CHILDREN = """
    child = "import time; print(flush=True); time.sleep(60)"
    deaf = "import signal; signal.signal(15, signal.SIG_IGN);" + child
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, **own)
        for code in (child, deaf)
        for own in ({}, {"start_new_session": True})
    ]
    for child in children:
        child.stdout.readline()
    pathlib.Path(READY).touch()
    time.sleep(60)
"""
DAEMON = """
    # As pg_ctl does: fork twice, in a session of its own; the root ends.
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


class TestSpawn:
    """How a program is started."""

    def test_it_gets_a_session_of_its_own(self, start: Start) -> None:
        """So Ctrl-C of the terminal does not reach it."""
        process = start(SLEEP)
        assert os.getsid(process.pid) == process.pid

    def test_each_tree_has_its_own_cookie(self, start: Start) -> None:
        """At random, in its environment."""
        cookies = {psutil.Process(start(SLEEP).pid).environ()[COOKIE] for _ in range(3)}
        assert len(cookies) == 3
        assert all(len(cookie) == 32 for cookie in cookies)

    def test_it_inherits_no_open_file_of_ours(self, tmp_path: Path) -> None:
        """Only the three standard ones."""
        output = tmp_path / "output"
        with output.open("wb") as file, (tmp_path / "ours").open("wb"):
            process = spawn(["ls", "/proc/self/fd"], output=file, errors=subprocess.STDOUT)
            process.wait(LONGEST)
        assert len(output.read_text().split()) == 4  # and the folder that it lists

    def test_it_shows_its_state(self, start: Start) -> None:
        """In its repr: pid, program, how it ended."""
        process = start(SLEEP)
        assert repr(process) == f"<Process {process.pid} {sys.executable!r} running>"
        process.end(CLOCK, signal.SIGKILL, LONGEST)
        assert repr(process) == f"<Process {process.pid} {sys.executable!r} ended with -9>"


class TestMembers:
    """Who belongs to a tree."""

    def test_children_and_other_sessions_belong_to_it(self, start: Start) -> None:
        """The root and its four children."""
        process = start(CHILDREN)
        children = {child.pid for child in psutil.Process(process.pid).children()}
        assert len(children) == 4
        assert pids(process) == {process.pid, *children}

    def test_a_daemon_that_forked_twice_belongs_to_it(self, start: Start) -> None:
        """After its root has ended: it carries the cookie."""
        process = start(DAEMON)
        wait_until(lambda: process.poll() == 0)
        assert len(pids(process)) == 1

    def test_a_stranger_does_not(self, start: Start) -> None:
        """Neither another tree nor we."""
        one, other = start(SLEEP), start(SLEEP)
        assert pids(one) == {one.pid}
        assert pids(other) == {other.pid}

    def test_a_stranger_with_the_same_pid_does_not(self, start: Start) -> None:
        """Pids are used again: without the cookie a process is nobody's root."""
        stranger = start(SLEEP)
        assert tree_members("another cookie", 0.0, root=stranger.pid) == []

    def test_a_process_that_was_there_before_does_not(self, start: Start) -> None:
        """The number of a session is used again, too: members are no older than the tree."""
        stranger = start(SLEEP)
        created = psutil.Process(stranger.pid).create_time()
        assert tree_members("another", created + 1, session=stranger.pid) == []
        (found,) = tree_members("another", created, session=stranger.pid)
        assert found.pid == stranger.pid

    def test_a_zombie_does_not(self, start: Start) -> None:
        """It has ended already."""
        process = start(SLEEP)
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert tree_members("", 0.0, root=process.pid, session=process.pid) == []


class TestEnd:
    """How a tree is ended."""

    def end(self, process: Process, grace: float = LONGEST) -> float:
        """End the tree by SIGTERM; return how long that took."""
        begun = CLOCK.now()
        process.end(CLOCK, signal.SIGTERM, grace)
        return CLOCK.now() - begun

    def test_a_program_that_obeys_ends_at_once(self, start: Start) -> None:
        """By the signal, without waiting for the grace."""
        process = start(SLEEP)
        assert self.end(process) < LONGEST / 2
        assert process.returncode == -signal.SIGTERM

    def test_one_that_does_not_is_killed_after_its_grace(self, start: Start) -> None:
        """Not before."""
        process = start(DEAF)
        assert 0.2 <= self.end(process, 0.2) < LONGEST / 2
        assert process.returncode == -signal.SIGKILL

    def test_nothing_of_the_tree_is_left(self, start: Start) -> None:
        """Children that ignore SIGTERM or left the session included."""
        process = start(CHILDREN)
        members = process.members()
        assert len(members) == 5
        self.end(process, 0.2)
        assert process.members() == []
        assert not any(
            member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members
        )

    def test_a_daemon_is_ended_although_its_root_has_ended(self, start: Start) -> None:
        """By its cookie."""
        process = start(DAEMON)
        wait_until(lambda: process.poll() == 0)
        (daemon,) = process.members()
        self.end(process)
        assert not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE

    def test_children_get_sigterm_before_sigkill(self, start: Start, tmp_path: Path) -> None:
        """A child whose parent has died may still clean up."""
        process = start(f"""
            child = '''if True:
                import pathlib, signal, sys, time
                def bye(*_):
                    pathlib.Path({str(tmp_path / "bye")!r}).touch()
                    sys.exit()
                signal.signal(signal.SIGTERM, bye)
                pathlib.Path(sys.argv[1]).touch()
                time.sleep(60)
            '''
            subprocess.Popen([sys.executable, "-c", child, READY])
            time.sleep(60)
        """)
        self.end(process)
        assert (tmp_path / "bye").exists()

    def test_ending_twice_does_nothing(self, start: Start) -> None:
        """It is gone."""
        process = start(SLEEP)
        self.end(process)
        self.end(process)
        assert process.returncode == -signal.SIGTERM

    def test_a_program_that_has_ended_keeps_its_status(self, start: Start) -> None:
        """It is not signalled."""
        process = start("pathlib.Path(READY).touch(); sys.exit(3)")
        assert process.wait(LONGEST) == 3
        self.end(process)
        assert process.returncode == 3

    def test_a_tree_that_forks_all_the_time_is_ended(self, start: Start) -> None:
        """It is killed in rounds."""
        process = start("""
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            pathlib.Path(READY).touch()
            until = time.monotonic() + 20
            while time.monotonic() < until:
                pid = os.fork()
                if pid and os.getpid() != os.getsid(0):
                    os._exit(0)  # the child goes on in our place
                if pid:
                    os.waitpid(pid, 0)
        """)
        self.end(process, 0.1)
        assert process.members() == []

    def test_waiting_for_it_has_a_timeout(self, start: Start) -> None:
        """As of subprocess."""
        process = start(SLEEP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(LONGEST) == -signal.SIGKILL
