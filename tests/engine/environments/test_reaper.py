"""The reaper, which waits for the death of its process and then acts. Real processes are used."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.environments import reaper
from pytest_plan.engine.environments import watchdog as lease
from pytest_plan.engine.environments.reaper import Reaper
from tests.engine.support import journals

ROOT = Path(__file__).parents[3]
LONGEST = 20.0
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
SOON = 3.0  # seconds; "at once" on a busy machine
_OWNER = """\
import os, signal, subprocess, sys, threading, time
sys.path.insert(0, ROOT)
from pathlib import Path
from pytest_plan.engine.environments import reaper
from pytest_plan.engine.environments.reaper import Reaper
folder = Path(sys.argv[1])
command = ["/bin/touch", str(folder / "acted")]
watcher = Reaper(folder / "journal", command, dict(os.environ), folder / "log")
print(watcher.pid, flush=True)
"""
WAIT = "sys.stdin.read()\n"
DAEMON = """
pid = os.fork()
if pid == 0:
    os.setsid()  # it keeps our end of the pipe
    os.close(1)
    time.sleep(60)
    os._exit(0)
print(pid, flush=True)
sys.stdin.read()
"""
HOLD_GIL = """
reaper.PATIENCE = 0.2
watcher.limit(0.1)
sum(range(10**12))
"""
SLEEPS = """
reaper.PATIENCE = 0.2
watcher.limit(0.1)
watcher.limit(None)
time.sleep(1.5)
watcher.stop()
print("ended by itself", flush=True)
"""
BEATS = """
reaper.PATIENCE, reaper._BEAT = 1.0, 0.1
watcher.limit(0.1)
print("waits", flush=True)
sys.stdin.read()
watcher.stop()
"""
WORKERS = """
from pytest_plan.engine.processes.identity import identify
for offset in (0, 1):
    worker = identify(subprocess.Popen(["sleep", "60"], start_new_session=True).pid)
    watcher.guard(worker._replace(birth=str(int(worker.birth) + offset)))
    print(worker.pid, flush=True)
sys.stdin.read()
"""
WITHOUT_PIDFD = """
import os
del os.pidfd_open
exec(compile(open({file!r}).read(), {file!r}, "exec"))
"""
RESTARTED = """
sys.stdin.readline()
os.kill(watcher.pid, signal.SIGKILL)
while watcher.is_alive():
    time.sleep(0.01)
watcher._argv[3] = {!r}
watcher.restart()
"""
STOP = """
watcher.stop()
print("stopped", watcher.is_alive(), flush=True)
"""
REVIVE = """
sys.stdin.readline()
reaper.PATIENCE = 0.2
watcher.limit(0.4)
os.kill(watcher.pid, signal.SIGKILL)
while watcher.is_alive():
    time.sleep(0.01)
watcher.restart()
print(watcher.pid, watcher.is_alive(), watcher.restarts, flush=True)
sum(range(10**12))
"""

Start = Callable[[str], "Owner"]


def wait_until(done: Callable[[], Any]) -> None:
    """Wait until another process has done something."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.005)


class Owner:
    """A process that has a reaper."""

    def __init__(self, code: str, folder: Path, environ: dict[str, str]) -> None:
        preamble = _OWNER.replace("ROOT", repr(str(ROOT)))
        self.process = subprocess.Popen(
            [sys.executable, "-c", preamble + textwrap.dedent(code), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, **environ},
        )  # fmt: skip
        self._folder = folder
        self.reaper = psutil.Process(int(self.line()))

    def line(self) -> str:
        """Return the next line that the process prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begin(self) -> None:
        """Let a process begin that waits for a line."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def has_acted(self) -> bool:
        """Return whether the reaper has run its command."""
        return (self._folder / "acted").exists()

    def log(self) -> str:
        """Return the output of the reaper and of its command."""
        return (self._folder / "log").read_text()

    def files(self) -> set[str]:
        """Return the open files of the reaper once it waits."""
        folder = Path(f"/proc/{self.reaper.pid}/fd")
        found: set[str] = set()

        def waits() -> bool:
            found.clear()
            with contextlib.suppress(OSError):  # a descriptor that was just closed
                found.update(os.readlink(file) for file in folder.iterdir())
                return any("pidfd" in file for file in found)
            return False

        wait_until(waits)
        return found

    def is_watched(self) -> bool:
        """Return whether the reaper is alive."""
        return self.reaper.is_running() and self.reaper.status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    """Starts processes that have a reaper; none is left when the test ends."""
    owners: list[Owner] = []

    def start(code: str, **environ: str) -> Owner:
        owners.append(Owner(code, tmp_path, environ))
        return owners[-1]

    yield start
    for owner in owners:
        owner.process.kill()
        owner.process.communicate()
    for owner in owners:
        wait_until(functools.partial(_is_gone, owner))


def _is_gone(owner: Owner) -> bool:
    return not owner.is_watched()


def kill(owner: Owner, *, group: bool = False) -> float:
    """Kill a process, or its whole group; return the time."""
    (os.killpg if group else os.kill)(owner.process.pid, signal.SIGKILL)
    return time.monotonic()


def run_argv(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program in the same way as the reaper is run."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        argv, cwd="/", env=variables, capture_output=True, text=True, timeout=LONGEST, check=False
    )


class TestDeath:
    """The death of the watched process."""

    @pytest.mark.parametrize("group", [False, True])
    def test_it_acts_at_once(self, start: Start, group: bool) -> None:
        """The reaper survives a kill of the whole group, because it has its own session."""
        owner = start(WAIT)
        assert os.getsid(owner.reaper.pid) == owner.reaper.pid
        begun = kill(owner, group=group)
        wait_until(owner.has_acted)
        assert time.monotonic() - begun < SOON

    @pytest.mark.parametrize("code", ["os._exit(0)", "os.abort()", "sys.exit()"])
    def test_however_it_dies(self, start: Start, code: str) -> None:
        """A process that ends without `done` has left work behind."""
        owner = start(code)
        wait_until(owner.has_acted)

    def test_a_daemon_that_has_our_end_of_the_pipe_delays_nothing(self, start: Start) -> None:
        """The reaper watches the process, not only the pipe."""
        owner = start(DAEMON)
        daemon = psutil.Process(int(owner.line()))
        try:
            begun = kill(owner)
            wait_until(owner.has_acted)
            assert time.monotonic() - begun < SOON
            assert daemon.is_running()
        finally:
            daemon.kill()

    def test_a_process_that_is_only_stopped_is_alive(self, start: Start) -> None:
        """A stopped process is not cleaned up."""
        owner = start(WAIT)
        owner.process.send_signal(signal.SIGSTOP)
        with pytest.raises(psutil.TimeoutExpired):
            owner.reaper.wait(0.5)
        assert not owner.has_acted()
        owner.process.send_signal(signal.SIGCONT)

    def test_one_that_died_before_it_was_looked_at_is_dead(self, tmp_path: Path) -> None:
        """A new process with the same pid is not mistaken for it."""
        command = [sys.executable, "-c", f"open({str(tmp_path / 'acted')!r}, 'w')"]
        stranger = subprocess.Popen(["sleep", "60"])
        try:
            argv = [sys.executable, "-I", "-S", lease.__file__, str(stranger.pid), "none", *command]
            assert subprocess.call(argv, stdin=subprocess.PIPE, timeout=LONGEST) == 0
            assert (tmp_path / "acted").exists()
        finally:
            stranger.kill()
            stranger.wait()


class TestDone:
    """Stopping the reaper when there is nothing left to do."""

    def test_it_goes_when_it_is_let_go(self, start: Start) -> None:
        """It ends at once, and its command does not run."""
        owner = start(STOP)
        begun = time.monotonic()
        assert owner.line() == "stopped False"
        assert time.monotonic() - begun < SOON
        assert owner.process.wait(LONGEST) == 0
        assert not owner.has_acted()
        assert owner.log() == ""

    def test_one_that_does_not_go_is_killed(self, tmp_path: Path) -> None:
        """A stopped reaper delays the end of a run by one second only."""
        watcher = Reaper(tmp_path / "j", ["true"], dict(os.environ), tmp_path / "log")
        os.kill(watcher.pid, signal.SIGSTOP)
        begun = time.monotonic()
        watcher.stop()
        assert time.monotonic() - begun < SOON
        assert not watcher.is_alive()

    def test_the_last_word_counts_even_if_death_follows(self, start: Start) -> None:
        """If `done` and the death arrive together, the command does not run."""
        owner = start('watcher._tell("done"); os._exit(0)')
        wait_until(lambda: not owner.is_watched())
        assert not owner.has_acted()


class TestLimit:
    """The reaper kills a process that cannot end by itself."""

    def test_one_that_holds_the_gil_is_killed_after_its_limit(self, start: Start) -> None:
        """Its cleanup runs afterwards."""
        owner = start(HOLD_GIL)
        assert owner.process.wait(LONGEST) == -signal.SIGKILL
        wait_until(owner.has_acted)

    def test_it_can_be_taken_back(self, start: Start) -> None:
        """The limit is removed, for example, in a debugger or when cleanup begins."""
        owner = start(SLEEPS)
        assert owner.line() == "ended by itself"
        assert owner.process.wait(LONGEST) == 0
        assert not owner.has_acted()

    def test_one_that_gives_a_sign_of_life_is_not_killed(self, start: Start) -> None:
        """Long after the limit it may still collect tests, for example."""
        owner = start(BEATS)
        assert owner.line() == "waits"
        with pytest.raises(subprocess.TimeoutExpired):
            owner.process.wait(3.0)
        owner.process.communicate("")
        assert owner.process.returncode == 0
        assert not owner.has_acted()

    def test_one_that_was_stopped_gets_time_anew(self, start: Start) -> None:
        """After Ctrl-Z or SIGSTOP it continues, however long that took."""
        owner = start(BEATS)
        assert owner.line() == "waits"
        owner.process.send_signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            owner.process.wait(4.0)
        owner.process.send_signal(signal.SIGCONT)
        owner.process.communicate("")
        assert owner.process.returncode == 0
        assert not owner.has_acted()

    def test_one_that_a_debugger_has_stopped_gets_time_anew(self, start: Start) -> None:
        """A debugger such as gdb stops all threads of the process that it is attached to."""
        owner = start(BEATS)
        assert owner.line() == "waits"
        ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        if ptrace(PTRACE_ATTACH, owner.process.pid, None, None):
            pytest.skip("this system does not let a process trace its child")
        until = time.monotonic() + 4.0
        wait_until(lambda: time.monotonic() > until)
        assert ptrace(PTRACE_DETACH, owner.process.pid, None, None) == 0
        owner.process.communicate("")
        assert owner.process.returncode == 0
        assert not owner.has_acted()


class TestWorkers:
    """The processes that must not outlive the watched process."""

    def test_they_are_killed_first(self, start: Start) -> None:
        """A process that only has the pid of a worker that has ended is left alone."""
        owner = start(WORKERS)
        worker, stranger = (psutil.Process(int(owner.line())) for _ in range(2))
        try:
            kill(owner)
            wait_until(owner.has_acted)
            assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
            assert stranger.is_running()
        finally:
            stranger.kill()


class TestWithoutPidfd:
    """A system without `pidfd_open`, such as macOS or Linux in some containers."""

    def test_a_copy_of_the_process_delays_nothing(self, start: Start, tmp_path: Path) -> None:
        """The death of the process counts, not the end of the pipe."""
        file = tmp_path / "watchdog.py"
        file.write_text(WITHOUT_PIDFD.format(file=lease.__file__))
        owner = start(RESTARTED.format(str(file)) + "print(watcher.pid, flush=True)" + DAEMON)
        owner.begin()
        owner.reaper = psutil.Process(int(owner.line()))
        daemon = psutil.Process(int(owner.line()))
        try:
            begun = kill(owner)
            wait_until(owner.has_acted)
            assert time.monotonic() - begun < SOON
            assert daemon.is_running()
        finally:
            daemon.kill()

    def test_done_counts(self, start: Start, tmp_path: Path) -> None:
        """It ends when there is nothing left to do."""
        file = tmp_path / "watchdog.py"
        file.write_text(WITHOUT_PIDFD.format(file=lease.__file__))
        owner = start(RESTARTED.format(str(file)) + STOP)
        owner.begin()
        assert owner.line() == "stopped False"
        assert owner.process.wait(LONGEST) == 0
        assert not owner.has_acted()


class TestItsOwnDeath:
    """The reaper is killed."""

    def test_it_is_noticed_and_started_again(self, start: Start) -> None:
        """The new reaper has the same limit."""
        owner = start(REVIVE)
        owner.begin()
        pid, is_alive, restarts = owner.line().split()
        assert (is_alive, restarts) == ("True", "1")
        assert int(pid) != owner.reaper.pid
        assert owner.process.wait(LONGEST) == -signal.SIGKILL
        wait_until(owner.has_acted)

    def test_speaking_to_the_dead_is_no_error(self, tmp_path: Path) -> None:
        """`is_alive` tells that it has died."""
        watcher = Reaper(tmp_path / "j", ["true"], dict(os.environ), tmp_path / "log")
        os.kill(watcher.pid, signal.SIGKILL)
        wait_until(lambda: not watcher.is_alive())
        watcher.limit(1.0)
        watcher.limit(None)
        watcher.stop()
        watcher.stop()

    def test_its_death_alone_cleans_up_nothing(self, start: Start) -> None:
        """The process that it watched is still alive."""
        owner = start(WAIT)
        owner.reaper.kill()
        wait_until(lambda: not owner.is_watched())
        assert owner.process.poll() is None
        assert not owner.has_acted()


class TestManners:
    """What the reaper inherits and what it uses."""

    def test_it_drops_what_ci_finds_it_by(self, start: Callable[..., Owner]) -> None:
        """It keeps all other environment variables."""
        dropped = dict.fromkeys(reaper._CI_MARKS, "1")
        owner = start(WAIT, **dropped, KEPT="1")
        owner.files()
        variables = owner.reaper.environ()
        assert not set(dropped) & set(variables)
        assert variables["KEPT"] == "1"
        owner.process.communicate("")
        wait_until(owner.has_acted)

    def test_it_has_no_socket_and_no_file_of_ours(self, start: Start) -> None:
        """It has three standard streams and a descriptor of the process."""
        owner = start(WAIT)
        files = owner.files()
        assert not [file for file in files if file.startswith("socket:")]
        assert len(files) <= 4
        assert owner.reaper.cwd() == "/"
        owner.process.communicate("")
        wait_until(owner.has_acted)

    def test_waiting_it_needs_little(self, start: Start) -> None:
        """While it waits, it has loaded neither the package nor `site`."""
        owner = start(WAIT)
        owner.files()
        memory = owner.reaper.memory_full_info()
        assert memory.uss < 20 * 1024 * 1024
        assert not any("pytest" in file.path for file in owner.reaper.memory_maps())
        owner.process.communicate("")
        wait_until(owner.has_acted)


class TestTrees:
    """The process trees that it ends before it runs the command."""

    @pytest.mark.parametrize(
        ("has_hook", "status", "ended"),
        [(False, "open", True), (True, "open", False), (False, "kept", False)],
    )
    def test_a_tree_is_ended_unless_it_is_needed(
        self, tmp_path: Path, has_hook: bool, status: str, ended: bool
    ) -> None:
        """A tree is needed by a remaining cleanup, or if its environment is kept."""
        pids: list[int] = []

        def make(ctx: Context) -> None:
            pids.append(ctx.start(["sleep", "600"]).pid)

        hook = {"cleanup": (lambda: None)} if has_hook else {}
        run = journals.provisioned(tmp_path / "j", {"a": GenericStep(exec=make, **hook)})
        run.journal.set(status=status, launch={"cwd": str(tmp_path)})  # type: ignore[attr-defined]
        argv = [
            sys.executable,
            "-m",
            "pytest_plan.engine.environments.reap",
            str(tmp_path / "j"),
            "/bin/pwd",
        ]
        done = run_argv(argv)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(tmp_path), "")
        status_now = psutil.Process(pids[0]).status()
        assert (status_now == psutil.STATUS_ZOMBIE) is ended
        run.clean_up()

    def test_a_tree_of_somebody_who_has_it_now_is_left_alone(self, tmp_path: Path) -> None:
        """The next run may be faster than the reaper."""
        pids: list[int] = []

        def make(ctx: Context) -> None:
            pids.append(ctx.start(["sleep", "600"]).pid)

        run = journals.provisioned(tmp_path / "j", {"a": GenericStep(exec=make)})
        me = psutil.Process()
        stat = Path(f"/proc/{me.pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        owner = {"pid": me.pid, "birth": stat[19], "boot": boot}
        run.journal.set(owner=owner, launch={"cwd": "/"})  # type: ignore[attr-defined]
        argv = [
            sys.executable,
            "-m",
            "pytest_plan.engine.environments.reap",
            str(tmp_path / "j"),
            "/bin/true",
        ]
        run_argv(argv)
        assert psutil.Process(pids[0]).status() == psutil.STATUS_SLEEPING
        run.clean_up()

    def test_a_journal_that_cannot_be_read_does_not_stop_it(self, tmp_path: Path) -> None:
        """The command runs and reports the error."""
        argv = [sys.executable, "-m", "pytest_plan.engine.environments.reap", str(tmp_path / "j")]
        done = run_argv([*argv, "/bin/echo", "ran"])
        assert done.stdout == "ran\n"
        assert "cannot read the journal" in done.stderr
