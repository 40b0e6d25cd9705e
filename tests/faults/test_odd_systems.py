"""Rows 74 to 77: hidden processes, a kernel without pidfd, a clock set back, other users."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
import signal
import struct
import subprocess
import sys

import pytest

from tests.faults.harness.aftermath import NO_REAPER, PLAIN, clean_up, cleanup_said, environments
from tests.faults.harness.daemons import daemons_of, expect_daemons_gone, write_project
from tests.faults.harness.scenario import Run, Stage, Story
from tests.faults.test_other_user import as_other, give, missing

ENDS = {"green": 0, "sigkill": signal.SIGKILL}


def play(stage: Stage, run: Run, end: int, **start: object) -> Story:
    """Play a run that leaves four daemons; its end, or the reaper, must end all of them."""
    run.start(argv=PLAIN, **start)  # type: ignore[arg-type]
    yield run.ended
    run._tally.faults += 1
    run._tally.kills += end == signal.SIGKILL
    run.expect(run.status == -end, f"exit status {run.status}: {run.output()}")
    yield lambda: not environments(run) and not run.processes()
    expect_daemons_gone(run, 4)


# As process 1 of a namespace it must outlive the reaper, or the system would end everything.
HIDDEN = """
mount -t proc -o hidepid=2 proc /proc || exit 99
"$@"
echo $? >status
until [ -e over ]; do sleep 0.05; done
"""
UNSHARED = ("unshare", "--mount", "--pid", "--fork", "--kill-child")


@functools.cache
def no_namespaces() -> str:
    """Return why processes cannot be hidden here; empty if they can."""
    if shutil.which("unshare") is None or missing():
        return missing() or "needs unshare"
    argv = [*UNSHARED, "sh", "-c", "mount -t proc -o hidepid=2 proc /proc"]
    done = subprocess.run(argv, check=False, capture_output=True)
    return f"proc cannot be mounted: {done.stderr!r}" if done.returncode else ""


@pytest.mark.skipif("no_namespaces()", reason="needs namespaces, and to be root")
def test_g7_daemons_are_ended_where_processes_of_others_are_hidden(stage: Stage) -> None:
    """Row 74: `/proc` is mounted with hidepid=2 in a namespace, and pytest is not root."""

    def story(run: Run, end: int) -> Story:
        write_project(run, end)
        give(run)
        run.start(argv=PLAIN, under=[*UNSHARED, "sh", "-c", HIDDEN, "sh", *as_other()])
        status = run.project / "status"
        yield lambda: status.exists() and status.read_text().strip()
        run._tally.faults += 1
        run._tally.kills += end == signal.SIGKILL
        expected = 128 + end if end else 0
        run.expect(status.read_text().strip() == str(expected), run.output())
        yield lambda: not environments(run) and not programs(run)
        run.expect(len(daemons_of(run)) == 4, f"daemons: {daemons_of(run)}")
        run.write("over", "")
        yield run.ended

    for end, number in ENDS.items():
        stage.add(end, story, number)
    stage.play()


def programs(run: Run) -> list[str]:
    """Return the processes of a user that only a run has."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.stat(run.project).st_uid:
                found.append(repr(process))
        except psutil.Error:
            continue
    return found


PIDFD_OPEN, PIDFD_SEND_SIGNAL = 434, 424  # the same on every architecture
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # instructions of a filter for system calls
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.ENOSYS
_NO_NEW_PRIVILEGES, _SET_FILTER = 38, 22  # arguments of prctl


def without_pidfd() -> None:
    """Let this process and its descendants find no pidfd, as on an old kernel."""
    code = [
        (_LOAD, 0, 0, 0),
        (_EQUAL, 1, 0, PIDFD_OPEN),
        (_EQUAL, 0, 1, PIDFD_SEND_SIGNAL),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(text)))
    library = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_FILTER, 2, program, 0, 0)):
        if library.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


@functools.cache
def no_filters() -> str:
    """Return why system calls cannot be refused here; empty if they can."""
    code = "import os; os.pidfd_open(os.getpid())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            preexec_fn=without_pidfd,
            capture_output=True,
            text=True,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"system calls cannot be filtered: {error}"
    return "" if "Function not implemented" in done.stderr else done.stderr or "it is there"


@pytest.mark.skipif("no_filters()", reason="needs a kernel that filters system calls")
def test_g7_daemons_are_ended_without_pidfd(stage: Stage) -> None:
    """Row 75: a kernel without pidfd, also for the reaper."""

    def story(run: Run, end: int) -> Story:
        write_project(run, end)
        yield from play(stage, run, end, preexec_fn=without_pidfd)

    for end, number in ENDS.items():
        stage.add(end, story, number)
    stage.play()


def test_g7_daemons_are_ended_by_a_python_without_pidfd(stage: Stage) -> None:
    """Row 75: a Python whose module `os` has no `pidfd_open`, as with an old C library."""

    def story(run: Run, end: int) -> Story:
        write_project(run, end)
        run.write("sitecustomize.py", "import os\ndel os.pidfd_open\n")
        yield from play(stage, run, end, env={"PYTHONSAFEPATH": "1"})

    for end, number in ENDS.items():
        stage.add(end, story, number)
    stage.play()


# Every look at the wall clock, and every start time that is computed from it, is an hour earlier
# than the one before.
JUMPING = """\
import itertools, psutil, time

_wall, _hours = time.time, itertools.count(1)
time.time = lambda: _wall() - 3600 * next(_hours)
psutil.boot_time = lambda: 1e9 - 3600 * next(_hours)
psutil.Process.create_time = lambda self: 1e9 - 3600 * next(_hours)
"""


def test_g11_the_wall_clock_does_not_matter_to_a_daemon(stage: Stage) -> None:
    """Row 76: the clock is set back while daemons are running, in the run and in the cleanup."""

    def story(run: Run, end: int) -> Story:
        write_project(run, end)
        conftest = run.project / "conftest.py"
        run.write("conftest.py", JUMPING + conftest.read_text())
        run.start(*NO_REAPER, argv=PLAIN)
        yield run.ended
        run._tally.faults += 1
        run._tally.kills += end == signal.SIGKILL
        run.expect(run.status == -end, f"exit status {run.status}: {run.output()}")
        bystander = subprocess.Popen(["sleep", "600"])
        run.expect(clean_up(run) == 0, cleanup_said(run))
        yield lambda: not environments(run) and not run.processes()
        expect_daemons_gone(run, 4)
        run.expect(bystander.poll() is None, "a stranger was signalled")
        bystander.kill()
        bystander.wait()

    for end, number in ENDS.items():
        stage.add(end, story, number)
    stage.play()


@functools.cache
def no_other_user() -> str:
    """Return why programs cannot run as another user here; empty if they can."""
    if os.geteuid() != 0:
        return "needs to be root"
    return "" if shutil.which("python3", path=os.defpath) else "needs a Python for all users"


@pytest.mark.skipif("no_other_user()", reason="needs root, and a Python for all users")
def test_g7_daemons_of_another_user_are_ended(stage: Stage) -> None:
    """Row 77: with `user=` the program and its daemon are another user's, and so is a bystander."""

    def story(run: Run, end: int) -> Story:
        write_project(run, end, user="nobody")
        bystander = subprocess.Popen(["sleep", "600"], user="nobody", cwd="/")
        yield from play(stage, run, end)
        run.expect(bystander.poll() is None, "a process of the same user was signalled")
        bystander.kill()
        bystander.wait()

    for end, number in ENDS.items():
        stage.add(end, story, number)
    stage.play()
