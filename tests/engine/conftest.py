"""Fixtures of the engine tests, and a check that no test leaves anything behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engine.fake_clock import FakeClock
from tests.engine.steps import Calls, Gate

SETTLE = 5.0  # real seconds in which a thread or process that is ending must be gone
FD_FOLDER = Path("/proc/self/fd")
TASKS = Path("/proc/self/task")


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the runs of these tests apart from others on the same machine."""
    tmp_path_factory.getbasetemp()  # pytest's own folders stay where they belong
    # Short: paths of sockets lie below it. Passable, as the system's folder is.
    folder = Path(tempfile.mkdtemp(prefix="e"))
    folder.chmod(0o711)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_left_behind(own_temporary_folder: Path) -> Iterator[None]:
    """Fail a test that leaves a thread, process, file, variable, handler or folder."""
    looks: dict[str, Callable[[], set[Any]]] = {
        "threads": _threads,
        "processes": _processes,
        "open files": _open_files,
        "environment": _environment,
        "signal handlers": _handlers,
        "folders": lambda: set(own_temporary_folder.glob("plan-*")),
    }
    before = {what: look() for what, look in looks.items()}
    yield
    changed = {}
    for what, look in looks.items():
        if (left := _settled(look, before[what])) != before[what]:
            changed[what] = left ^ before[what]
    for folder in changed.get("folders", ()):
        shutil.rmtree(folder, ignore_errors=True)  # lest the next test finds it
    assert not changed


@pytest.fixture
def calls() -> Calls:
    """A fresh record of calls."""
    return Calls()


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    """A clock that needs no real time; whoever waits in it must be told of what he waits for."""
    clock = FakeClock()
    yield clock
    assert clock.lost_wakeups == 0


@pytest.fixture
def make_gate(clock: FakeClock) -> Iterator[Callable[[], Gate]]:
    """Make gates; all are open when the test ends."""
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate(clock))
        return gates[-1]

    yield make
    for one in gates:
        one.open()


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    """One point at which a step stops; open when the test ends."""
    return make_gate()


def _settled(look: Callable[[], set[Any]], wanted: set[Any]) -> set[Any]:
    deadline = time.monotonic() + SETTLE
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.002)
    return found


def _threads() -> set[threading.Thread]:
    # A Timer is pytest-timeout's, which takes it away when a test fails.
    return {one for one in threading.enumerate() if not isinstance(one, threading.Timer)}


def _processes() -> set[int]:
    if not TASKS.exists():
        return {child.pid for child in psutil.Process().children()}
    found: set[int] = set()
    for children in TASKS.glob("*/children"):  # much cheaper than psutil, which reads all of /proc
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended
            found.update(int(pid) for pid in children.read_text().split())
    return found


def _open_files() -> set[tuple[str, str]]:
    if not FD_FOLDER.exists():
        return set()
    found = set()
    for name in os.listdir(FD_FOLDER):
        try:
            found.add((name, os.readlink(FD_FOLDER / name)))
        except FileNotFoundError:
            continue  # the one by which the folder was listed
    return found


def _environment() -> set[tuple[str, str]]:
    return set(os.environ.items()) - {("PYTEST_CURRENT_TEST", os.environ["PYTEST_CURRENT_TEST"])}


def _handlers() -> set[tuple[int, str]]:
    if sys.platform == "win32":
        return set()
    # SIGALRM is pytest-timeout's, which takes it away when a test fails.
    numbers = signal.valid_signals() - {signal.SIGALRM}
    return {(number, repr(signal.getsignal(number))) for number in numbers}
