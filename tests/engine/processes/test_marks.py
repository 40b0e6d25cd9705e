"""The marks of a tree: no program can hide from them, and no stranger carries them."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.processes import marks as marks_module
from pytest_plan.engine.processes.identity import Identity, birth_of, identify
from pytest_plan.engine.processes.marks import RLIMIT_LOCKS, Marks, marking, new_marks
from pytest_plan.engine.processes.orphan import orphan_tree
from pytest_plan.engine.processes.process import Process, spawn
from pytest_plan.engine.processes.tree import KILL, Leftovers, tree_members

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this limit")

CLOCK = SystemClock()
LONGEST = 10.0
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root starts programs as another user")

# It forks twice, leaves its session, clears its environment and closes its files.
HIDING = """
import os, sys
if len(sys.argv) == 2:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 256)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:], "again"], {})
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
import time
time.sleep(60)
"""


def wait_until(done: Callable[[], Any]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def run(argv: list[str], **options: Any) -> Process:
    """Start a program without output."""
    return spawn(argv, output=subprocess.DEVNULL, errors=subprocess.DEVNULL, **options)


def limit_of(pid: int) -> str:
    """Return the limit on file locks of a process, as /proc shows it."""
    (row,) = (
        line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "locks" in line
    )
    soft, hard = row.removeprefix("Max file locks").split()[:2]
    assert soft == hard
    return soft


class Hidden:
    """A daemon that hides, and the program that has left it."""

    def __init__(self, file: Path, python: str = sys.executable, **options: Any) -> None:
        self.marks = new_marks()
        self.program = run([python, "-c", HIDING, str(file)], marks=self.marks, **options)
        wait_until(file.exists)
        self.daemon = identify(int(file.read_text()))
        assert self.program.wait(LONGEST) == 0
        assert b"COOKIE" not in Path(f"/proc/{self.daemon.pid}/environ").read_bytes()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which every user may create files."""
    import tempfile

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["prlimit", "preexec", "another user"])
def hidden(request: pytest.FixtureRequest, folder: Path) -> Iterator[Hidden]:
    """A daemon that hides, whose mark was set in each of the ways."""
    options: dict[str, Any] = {}
    if request.param == "another user":
        python = shutil.which("python3", path=os.defpath)
        if os.getuid() != 0 or python is None:
            pytest.skip("only root starts programs as another user, who cannot read our Python")
        options = {"user": "nobody", "cwd": "/", "python": python}
    if request.param == "preexec":
        options = {"env": {**os.environ, "LD_BIND_NOW": "1"}}
    hidden = Hidden(folder / "pid", **options)
    yield hidden
    hidden.daemon.send_signal(signal.SIGKILL)
    wait_until(lambda: not hidden.daemon.is_alive())


class TestHiding:
    """A daemon that forks twice, leaves its session and clears its environment."""

    def test_it_is_ended_with_its_program(self, hidden: Hidden) -> None:
        """`Process.end` finds it although its program has ended."""
        assert hidden.program.members() == [hidden.daemon]
        hidden.program.end(CLOCK, signal.SIGTERM, LONGEST)
        assert not hidden.daemon.is_alive()

    def test_it_is_ended_as_a_leftover(self, hidden: Hidden) -> None:
        """Cleanup ends what `ctx.run` has left, and says so."""
        said: list[str] = []
        Leftovers(hidden.marks, said.append).end(CLOCK, signal.SIGTERM, LONGEST)
        assert not hidden.daemon.is_alive()
        assert len(said) == 1
        assert f"(pid {hidden.daemon.pid})" in said[0]
        Leftovers(hidden.marks, said.append).end(CLOCK, signal.SIGTERM, LONGEST)
        assert len(said) == 1

    @pytest.mark.parametrize("number", [KILL, signal.SIGTERM])
    def test_a_later_process_ends_it(self, hidden: Hidden, number: int) -> None:
        """The journal has the marks, and may lack the first process."""
        orphan_tree(hidden.marks._asdict()).end(CLOCK, number, LONGEST)
        assert not hidden.daemon.is_alive()

    def test_the_wall_clock_does_not_matter(
        self, hidden: Hidden, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No start time is compared with a clock that can be set back."""
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert hidden.program.members() == [hidden.daemon]
        assert orphan_tree(hidden.marks._asdict()).members() == [hidden.daemon]

    def test_it_is_not_missed_while_it_forks(self) -> None:
        """A daemon may fork and exit while the process table is read."""
        code = (
            "import os, time\n"
            "for _ in range(3):\n"
            "    if os.fork(): os._exit(0)\n"
            "    os.setsid()\n"
            "time.sleep(60)\n"
        )
        for _ in range(20):
            program = run([sys.executable, "-c", code])
            assert program.wait(LONGEST) == 0
            assert len(program.members()) > 0
            program.end(CLOCK, KILL, 0.0)
            assert program.members() == []

    def test_its_children_are_found_although_they_hide(self, folder: Path) -> None:
        """Any number of generations carries the mark."""
        shell = ["sh", "-c", 'env -i "$@" & wait', "sh", sys.executable, "-c", HIDING]
        program = run([*shell, str(folder / "pid")])
        wait_until((folder / "pid").exists)
        daemon = identify(int((folder / "pid").read_text()))
        program.wait(LONGEST)
        assert daemon in program.members()
        program.end(CLOCK, KILL, 0.0)
        assert not daemon.is_alive()


class TestBystanders:
    """Processes that have much in common with a tree, but were not started by it."""

    def test_none_of_them_is_signalled(self, folder: Path) -> None:
        """Name, port, folder, open log, session's parent and user are no reason for a signal."""
        with socket.create_server(("127.0.0.1", 0), reuse_port=True) as server:
            port = server.getsockname()[1]
        code = (
            "import socket, sys, time; "
            f"s = socket.create_server(('127.0.0.1', {port}), reuse_port=True); "
            "open(sys.argv[1], 'w').close(); time.sleep(60)"
        )
        log = folder / "log.txt"
        log.touch()
        same = [sys.executable, "-c", code]
        bystanders = [
            subprocess.Popen([*same, str(folder / "one")], cwd=folder),
            subprocess.Popen([*same, str(folder / "two")], cwd=folder, start_new_session=True),
            subprocess.Popen(["tail", "-f", str(log)], stdout=subprocess.DEVNULL, cwd=folder),
            subprocess.Popen(["sh", "-c", f"cd {folder}; sleep 60; true"]),
        ]
        with log.open("ab") as output:
            program = spawn([*same, str(folder / "own")], output=output, errors=output, cwd=folder)
        try:
            for name in ("one", "two", "own"):
                wait_until((folder / name).exists)
            assert program.members() == [identify(program.pid)]
            program.end(CLOCK, signal.SIGTERM, 0.5)
            Leftovers(new_marks(), lambda text: None).end(CLOCK, signal.SIGTERM, 0.5)
            assert [one.poll() for one in bystanders] == [None] * 4
        finally:
            subprocess.run(["pkill", "-P", str(bystanders[3].pid)], check=False)
            for one in bystanders:
                one.kill()
                one.wait()

    def test_a_process_with_another_birth_is_not_signalled(self) -> None:
        """A pid is signalled only if start time and boot id match."""
        stranger = subprocess.Popen(["sleep", "60"])
        who = identify(stranger.pid)
        who._replace(birth="1").send_signal(KILL)
        who._replace(boot="another").send_signal(KILL)
        assert stranger.poll() is None
        who.send_signal(KILL)
        assert stranger.wait(LONGEST) == -KILL

    def test_a_number_that_others_could_have_is_not_used(self) -> None:
        """A tree without a number matches no limit, not even the usual one."""
        assert not Marks("another").are_on(os.getpid())
        assert tree_members(Marks("another")) == []


class TestNumbers:
    """The random numbers."""

    def test_each_tree_has_another_one(self) -> None:
        """They are at most as high as our own limit, so that any user may set them."""
        numbers = [new_marks().number for _ in range(100)]
        assert len(set(numbers)) == 100
        assert all(number is not None and 2**60 < number < 2**62 for number in numbers)

    def test_a_program_that_runs_a_plan_marks_its_own_programs(self) -> None:
        """A plan in a program of a plan chooses numbers below its own limit."""
        code = "from pytest_plan.engine.processes.marks import new_marks; print(new_marks().number)"
        own = new_marks()
        assert own.number is not None
        text = _output([sys.executable, "-c", code], marks=own)
        assert own.number // 2 <= int(text) < own.number

    def test_a_limit_that_is_too_low_is_no_mark(self) -> None:
        """The tree is then found by its cookie, descent and session."""
        code = f"""if True:
            import resource, subprocess, os
            from pytest_plan.engine.processes.marks import new_marks
            from pytest_plan.engine.processes.process import spawn
            resource.setrlimit({RLIMIT_LOCKS}, (1000, 1000))
            assert new_marks().number is None
            program = spawn(["sleep", "60"], output=-3, errors=-3)
            print([member.pid == program.pid for member in program.members()])
            os.kill(program.pid, 9)
        """
        assert _output([sys.executable, "-c", code]) == "[True]\n"

    def test_our_own_limit_stays(self) -> None:
        """Starting a program changes nothing in this process."""
        before = resource.getrlimit(RLIMIT_LOCKS)
        run(["true"]).wait(LONGEST)
        run(["true"], env={"LD_BIND_NOW": "1", "PATH": os.environ["PATH"]}).wait(LONGEST)
        assert resource.getrlimit(RLIMIT_LOCKS) == before


class TestStart:
    """Starting a program with a limit."""

    @pytest.mark.parametrize("has_prlimit", [True, False])
    def test_the_program_has_the_limit_and_its_own_name(
        self, has_prlimit: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The limit is there with and without `prlimit`, and the arguments are as given."""
        if not has_prlimit:
            monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
        marks = new_marks()
        text = _output(
            ["sh", "-c", "cat /proc/self/limits; echo $0 $1", "-x", "--", "a"], marks=marks
        )
        assert text.count(str(marks.number)) == 2
        assert text.endswith("-x --\n")
        process = run(["sleep", "60"], marks=marks)
        wait_until(lambda: limit_of(process.pid) == str(marks.number))
        wait_until(
            lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes() == b"sleep\0" + b"60\0"
        )
        assert process.args == ("sleep", "60")
        process.end(CLOCK, KILL, 0.0)

    @pytest.mark.parametrize(
        ("content", "mode", "error"),
        [
            (None, 0, FileNotFoundError),
            ("#!/bin/sh\n", 0o600, PermissionError),
            ("#!/no/such/interpreter\n", 0o700, FileNotFoundError),
            ("garbage", 0o700, OSError),
            ("", 0o700, OSError),
        ],
    )
    @pytest.mark.parametrize("by", ["path", "name", "relative"])
    def test_a_program_that_cannot_be_executed_is_an_error(
        self, content: str | None, mode: int, error: type[OSError], by: str, folder: Path
    ) -> None:
        """`subprocess` says why, as without the mark."""
        program = folder / "program"
        if content is not None:
            program.write_text(content)
            program.chmod(mode)
        argv = {"path": str(program), "name": "program", "relative": "./program"}[by]
        with pytest.raises(error):
            run([argv], env={"PATH": str(folder)}, cwd=folder)

    def test_a_folder_is_no_program(self, folder: Path) -> None:
        """It is refused as `subprocess` refuses it."""
        with pytest.raises(PermissionError):
            run([str(folder)])

    @pytest.mark.parametrize("by", ["path", "name", "relative"])
    def test_a_script_is_executed(self, by: str, folder: Path) -> None:
        """It is found in the `PATH` and relative to the folder of the program."""
        script = folder / "script"
        script.write_text("#!/bin/sh\necho $0 >&2; echo ran\n")
        script.chmod(0o700)
        argv = {"path": str(script), "name": "script", "relative": "./script"}[by]
        text = _output([argv], env={"PATH": f"{folder}:/bin:/usr/bin"}, cwd=folder)
        assert text == "ran\n"

    def test_prlimit_is_not_used_when_it_may_fail(self) -> None:
        """A preloaded library or another user would concern `prlimit`, too."""
        usual = marking(5, ["sh"], {"PATH": "/bin"}, None, as_other_user=False)
        assert usual.before_exec is None
        for how in (
            marking(5, ["sh"], {"PATH": "/bin", "LD_PRELOAD": "x"}, None, as_other_user=False),
            marking(5, ["sh"], {"PATH": "/bin"}, None, as_other_user=True),
            marking(5, ["no-such-program"], {"PATH": "/bin"}, None, as_other_user=False),
        ):
            assert how.prefix == ()
            assert how.before_exec is not None
        assert marking(None, ["sh"], {}, None, as_other_user=False) == marks_module.Marking()


@AS_ROOT
def test_what_cannot_be_ended_is_named() -> None:
    """Without the right to signal a process, `end` raises an error with its name and pid."""
    marks = new_marks()
    program = run(["sleep", "60"], marks=marks)
    code = f"""if True:
        import os
        from pytest_plan.engine.model.clock import SystemClock
        from pytest_plan.engine.processes.marks import Marks
        from pytest_plan.engine.processes.orphan import OrphanTree
        from pytest_plan.engine.processes.tree import Leftovers
        os.setuid(65534)
        marks = Marks(*{tuple(marks)!r})
        for tree in (Leftovers(marks, lambda text: None), OrphanTree(marks, None)):
            try:
                tree.end(SystemClock(), 15, 0.1)
            except TimeoutError as error:
                print(error)
    """
    wait_until(lambda: Path(f"/proc/{program.pid}/comm").read_text() == "sleep\n")
    text = _output([sys.executable, "-c", code])
    assert text == f"processes survived SIGKILL: 'sleep' (pid {program.pid})\n" * 2
    assert program.poll() is None
    program.end(CLOCK, KILL, 0.0)


def test_a_process_whose_main_thread_has_ended_is_alive() -> None:
    """Its state is Z as that of a zombie, but its other threads are running."""
    code = """if True:
        import ctypes, threading, time
        threading.Thread(target=time.sleep, args=(60,)).start()
        ctypes.CDLL(None).pthread_exit(None)
    """
    program = run([sys.executable, "-c", code])
    state = Path(f"/proc/{program.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z")
    assert birth_of(program.pid) != ""
    assert [member.pid for member in program.members()] == [program.pid]
    program.end(CLOCK, signal.SIGTERM, LONGEST)
    assert birth_of(program.pid) == ""


def test_an_identity_is_shown_with_its_program() -> None:
    """Messages name the program, because a pid alone says little."""
    program = run(["sleep", "60"])
    wait_until(lambda: str(identify(program.pid)) == f"'sleep' (pid {program.pid})")
    program.end(CLOCK, KILL, 0.0)
    assert str(Identity(program.pid, "1", "")) == f"'?' (pid {program.pid})"


def _output(argv: list[str], **options: Any) -> str:
    """Run a program and return its output."""
    import tempfile

    with tempfile.TemporaryFile() as output:
        code = spawn(
            [textwrap.dedent(part) for part in argv],
            output=output,
            errors=subprocess.DEVNULL,
            **options,
        )
        assert code.wait(LONGEST) == 0
        output.seek(0)
        return output.read().decode()
