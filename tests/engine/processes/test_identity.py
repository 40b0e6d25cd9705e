"""Identities of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

from pytest_plan.engine.processes.identity import Identity, birth_of, boot_id, identify, ourselves


def test_this_process_is_alive() -> None:
    """`ourselves` returns the identity of the current process."""
    assert ourselves().is_alive()
    assert ourselves() == identify(os.getpid())


def test_an_ended_process_is_not_alive() -> None:
    """This holds while it is a zombie and after it has been reaped."""
    child = subprocess.Popen(["sleep", "60"])
    who = identify(child.pid)
    assert who.is_alive()
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)
    assert not who.is_alive()
    child.wait()
    assert not who.is_alive()


def test_a_process_that_ended_before_it_was_identified_is_not_alive() -> None:
    """Its birth is unknown, so no other process can be mistaken for it."""
    child = subprocess.Popen(["true"])
    child.wait()
    who = identify(child.pid)
    assert who.birth == ""
    assert not who.is_alive()


def test_another_process_with_the_same_pid_is_not_alive() -> None:
    """It has another start time."""
    assert not ourselves()._replace(birth="1").is_alive()


def test_no_process_survives_a_reboot() -> None:
    """An identity from an earlier boot is not alive, because pids and start times repeat."""
    assert not ourselves()._replace(boot="an earlier one").is_alive()


def test_a_stopped_process_is_alive() -> None:
    """A process stopped by SIGSTOP can continue."""
    child = subprocess.Popen(["sleep", "60"])
    child.send_signal(signal.SIGSTOP)
    assert identify(child.pid).is_alive()
    child.kill()
    child.wait()


def test_a_program_name_with_spaces_and_parentheses_is_parsed() -> None:
    """The name comes before the start time in the same line of `/proc`."""
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


def test_an_identity_can_be_rebuilt_from_its_fields() -> None:
    """The fields are plain JSON values, as the journal needs them."""
    who = ourselves()
    assert Identity(**who._asdict()) == who
    assert boot_id() == boot_id() != ""
