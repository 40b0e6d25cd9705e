"""Process trees: found again and ended as a whole. Real programs, short waits."""

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
from pytest_plan.engine.processes.identity import identify
from pytest_plan.engine.processes.marks import COOKIE, Marks
from pytest_plan.engine.processes.process import Process, spawn
from pytest_plan.engine.processes.tree import tree_members

CLOCK = SystemClock()
LONGEST = 10.0

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start Python code as a process tree, and wait until it is ready."""
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
    """Wait for something that another process does."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


def pids(process: Process) -> set[int]:
    """Return the pids of the running members of a tree."""
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
    # As pg_ctl does: fork twice, with a new session in between, and let the root end.
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
    """Starting a program."""

    def test_it_gets_its_own_session(self, start: Start) -> None:
        """Ctrl-C in the terminal does not reach it."""
        process = start(SLEEP)
        assert os.getsid(process.pid) == process.pid

    def test_each_tree_has_its_own_cookie(self, start: Start) -> None:
        """The cookie is a random value in its environment."""
        cookies = {psutil.Process(start(SLEEP).pid).environ()[COOKIE] for _ in range(3)}
        assert len(cookies) == 3
        assert all(len(cookie) == 32 for cookie in cookies)

    def test_it_inherits_none_of_our_open_files(self, tmp_path: Path) -> None:
        """It has only the three standard files."""
        output = tmp_path / "output"
        with output.open("wb") as file, (tmp_path / "ours").open("wb"):
            process = spawn(["ls", "/proc/self/fd"], output=file, errors=subprocess.STDOUT)
            process.wait(LONGEST)
        assert len(output.read_text().split()) == 4  # the fourth is the folder that it lists

    def test_its_repr_shows_its_state(self, start: Start) -> None:
        """The repr has the pid, the program, and its exit status once it has ended."""
        process = start(SLEEP)
        assert repr(process) == f"<Process {process.pid} {sys.executable!r} running>"
        process.end(CLOCK, signal.SIGKILL, LONGEST)
        assert repr(process) == f"<Process {process.pid} {sys.executable!r} exited with status -9>"


class TestMembers:
    """Which processes are members of a tree."""

    def test_children_are_members_in_any_session(self, start: Start) -> None:
        """The members are the root and its four children."""
        process = start(CHILDREN)
        children = {child.pid for child in psutil.Process(process.pid).children()}
        assert len(children) == 4
        assert pids(process) == {process.pid, *children}

    def test_a_daemon_that_forked_twice_is_a_member(self, start: Start) -> None:
        """After its root has ended it is found by its cookie."""
        process = start(DAEMON)
        wait_until(lambda: process.poll() == 0)
        assert len(pids(process)) == 1

    def test_another_tree_is_not_a_member(self, start: Start) -> None:
        """Two trees have no member in common, and pytest belongs to neither."""
        one, other = start(SLEEP), start(SLEEP)
        assert pids(one) == {one.pid}
        assert pids(other) == {other.pid}

    def test_another_process_with_the_pid_of_the_root_is_not_a_member(self, start: Start) -> None:
        """Pids are reused, so the root must have the recorded start time."""
        stranger = identify(start(SLEEP).pid)._replace(birth="1")
        assert tree_members(Marks("another"), root=stranger) == []
        assert tree_members(Marks("another"), known=[stranger]) == []

    def test_a_session_with_the_id_of_the_root_is_not_enough(self, start: Start) -> None:
        """Ids of sessions are reused as well, so another member must be in the session."""
        stranger = start(CHILDREN)
        ended = identify(stranger.pid)._replace(birth="1")
        assert tree_members(Marks("another"), root=ended) == []

    def test_a_zombie_is_not_a_member(self, start: Start) -> None:
        """A zombie has already ended."""
        process = start(SLEEP)
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert tree_members(Marks("another"), root=identify(process.pid)) == []
        assert process.members() == []


class TestEnd:
    """Ending a tree."""

    def end(self, process: Process, grace: float = LONGEST) -> float:
        """End the tree with SIGTERM, and return how many seconds that took."""
        begun = CLOCK.now()
        process.end(CLOCK, signal.SIGTERM, grace)
        return CLOCK.now() - begun

    def test_a_program_that_reacts_to_the_signal_ends_at_once(self, start: Start) -> None:
        """It is ended by the signal, and the rest of the grace is not waited for."""
        process = start(SLEEP)
        assert self.end(process) < LONGEST / 2
        assert process.returncode == -signal.SIGTERM

    def test_a_program_that_ignores_the_signal_is_killed(self, start: Start) -> None:
        """It is not killed before the grace has passed."""
        process = start(DEAF)
        assert 0.2 <= self.end(process, 0.2) < LONGEST / 2
        assert process.returncode == -signal.SIGKILL

    def test_nothing_of_the_tree_is_left(self, start: Start) -> None:
        """Children that ignore SIGTERM or are in another session are ended as well."""
        process = start(CHILDREN)
        members = process.members()
        assert len(members) == 5
        self.end(process, 0.2)
        assert process.members() == []
        assert not any(member.is_alive() for member in members)

    def test_a_daemon_is_ended_after_its_root_has_ended(self, start: Start) -> None:
        """It is found by its cookie."""
        process = start(DAEMON)
        wait_until(lambda: process.poll() == 0)
        (daemon,) = process.members()
        self.end(process)
        assert not daemon.is_alive()

    def test_children_get_sigterm_before_sigkill(self, start: Start, tmp_path: Path) -> None:
        """A child whose parent has ended has time to clean up."""
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
        """The exit status stays the same."""
        process = start(SLEEP)
        self.end(process)
        self.end(process)
        assert process.returncode == -signal.SIGTERM

    def test_a_program_that_has_ended_keeps_its_status(self, start: Start) -> None:
        """A program that ended by itself is not signalled."""
        process = start("pathlib.Path(READY).touch(); sys.exit(3)")
        assert process.wait(LONGEST) == 3
        self.end(process)
        assert process.returncode == 3

    def test_a_tree_that_forks_all_the_time_is_ended(self, start: Start) -> None:
        """It is stopped and killed in rounds."""
        process = start("""
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            pathlib.Path(READY).touch()
            until = time.monotonic() + 20
            while time.monotonic() < until:
                pid = os.fork()
                if pid and os.getpid() != os.getsid(0):
                    os._exit(0)  # the child continues in its place
                if pid:
                    os.waitpid(pid, 0)
        """)
        self.end(process, 0.1)
        assert process.members() == []

    @pytest.mark.parametrize("leaves", ["", "os.setsid()"], ids=["one group", "own groups"])
    @pytest.mark.parametrize("daemon", [False, True], ids=["tree", "daemon"])
    @pytest.mark.parametrize("pause", [0.02, 0.002, 0.0])
    def test_a_chain_of_processes_that_live_briefly_is_ended(
        self, start: Start, tmp_path: Path, pause: float, daemon: bool, leaves: str
    ) -> None:
        """Each of them forks and exits faster than the process table can be read."""
        beat = tmp_path / "beat"
        process = start(f"""
            end = time.time() + {LONGEST}
            if os.fork():
                os._exit(0)
            {"os.setsid()" if daemon else ""}
            file = os.open({str(beat)!r}, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.write(file, b"-")
            pathlib.Path(READY).touch()
            while time.time() < end:
                if os.fork():
                    os._exit(0)
                {leaves or "pass"}
                os.write(file, b"-")
                time.sleep({pause})
        """)
        process.wait()
        process.end(CLOCK, signal.SIGTERM, 1.0)
        size = beat.stat().st_size
        assert size > 0
        time.sleep(0.3)  # a hundred of them would write in this time
        assert beat.stat().st_size == size

    def test_wait_has_a_timeout(self, start: Start) -> None:
        """`wait` raises `TimeoutExpired`, as in `subprocess`."""
        process = start(SLEEP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(LONGEST) == -signal.SIGKILL
