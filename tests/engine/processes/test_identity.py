"""Which process a number means."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

from pytest_plan.engine.processes.identity import Identity, birth_of, boot_id, identify, ourselves


def test_we_are_alive() -> None:
    """The easiest case."""
    assert ourselves().is_alive()
    assert ourselves() == identify(os.getpid())


def test_a_process_that_has_ended_is_not() -> None:
    """Also while it is a zombie, and after it was one."""
    child = subprocess.Popen(["sleep", "60"])
    who = identify(child.pid)
    assert who.is_alive()
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)
    assert not who.is_alive()
    child.wait()
    assert not who.is_alive()


def test_a_process_that_had_ended_when_it_was_looked_at_is_not() -> None:
    """Nothing is known of it: nobody may be taken for it."""
    child = subprocess.Popen(["true"])
    child.wait()
    who = identify(child.pid)
    assert who.birth == ""
    assert not who.is_alive()


def test_a_stranger_with_the_same_number_is_not() -> None:
    """It began at another time."""
    assert not ourselves()._replace(birth="1").is_alive()


def test_nobody_lives_on_after_a_reboot() -> None:
    """Numbers and births begin anew."""
    assert not ourselves()._replace(boot="an earlier one").is_alive()


def test_a_stopped_process_is_alive() -> None:
    """It can go on."""
    child = subprocess.Popen(["sleep", "60"])
    child.send_signal(signal.SIGSTOP)
    assert identify(child.pid).is_alive()
    child.kill()
    child.wait()


def test_a_name_with_spaces_and_parentheses_misleads_nobody() -> None:
    """The system shows the name before the time at which the process began."""
    code = (
        "import ctypes, sys; ctypes.CDLL(None).prctl(15, b') R 1 (x', 0, 0, 0);"
        "print(flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    before = birth_of(child.pid)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        assert psutil.Process(child.pid).name() == ") R 1 (x"
        assert birth_of(child.pid) == before != ""


def test_it_goes_into_plain_json() -> None:
    """And comes back by its fields."""
    who = ourselves()
    assert Identity(**who._asdict()) == who
    assert boot_id() == boot_id() != ""
