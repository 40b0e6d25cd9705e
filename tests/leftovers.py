"""Checks that no test, in any suite, leaves anything behind."""

from __future__ import annotations

import contextlib
import ctypes  # noqa: F401 - its library may keep a file open from its first use on
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

SETTLE = 5.0  # real seconds within which everything that is ending must be gone
Looks: TypeAlias = dict[str, Callable[[], set[Any]]]
_FD_FOLDER = Path("/proc/self/fd")
_TASKS = Path("/proc/self/task")


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give these tests a temporary folder of their own, apart from others on the same machine."""
    tmp_path_factory.getbasetemp()  # keeps pytest's own folders in their usual place
    # Short, because socket paths are below it. Passable, like the system's temporary folder.
    folder = Path(tempfile.mkdtemp(prefix="t"))
    folder.chmod(0o711)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_left_behind(own_temporary_folder: Path) -> Iterator[None]:
    """Fail a test that leaves a thread, process, file, variable, stream, handler or folder."""
    # Threads of earlier tests may end meanwhile, and those of fixtures open files for a moment.
    threads, files = _threads(), _open_files()
    looks: Looks = {
        "threads": lambda: threads | _threads(),
        "processes": _processes,
        "open files": lambda: files | _open_files(),
        "environment": _environment,
        "streams": lambda: {("stdout", id(sys.stdout)), ("stderr", id(sys.stderr))},
        "signal handlers": _handlers,
        "folders": lambda: _folders(own_temporary_folder),
    }
    before = {what: look() for what, look in looks.items()}
    yield
    changed = {}
    for what, look in looks.items():
        if (left := _settled(look, before[what])) != before[what]:
            changed[what] = left ^ before[what]
    for folder in changed.get("folders", ()):
        shutil.rmtree(folder, ignore_errors=True)  # so that the next test does not find it
    assert not changed, f"changed by the test: {changed}"


def _settled(look: Callable[[], set[Any]], wanted: set[Any]) -> set[Any]:
    deadline = time.monotonic() + SETTLE
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.002)
    return found


def _folders(parent: Path) -> set[Path]:
    # pytest keeps the folders of its last runs and removes older ones itself.
    return {path for path in parent.iterdir() if not path.name.startswith("pytest-of-")}


def _threads() -> set[threading.Thread]:
    # Timers belong to pytest-timeout, which cancels its timer when a test fails.
    return {one for one in threading.enumerate() if not isinstance(one, threading.Timer)}


def _processes() -> set[int]:
    if not _TASKS.exists():
        return {child.pid for child in psutil.Process().children()}
    found: set[int] = set()
    for children in _TASKS.glob("*/children"):  # much cheaper than psutil, which reads all of /proc
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            found.update(int(pid) for pid in children.read_text().split())
    return found


def _open_files() -> set[tuple[str, str]]:
    if not _FD_FOLDER.exists():
        return set()
    found = set()
    for name in os.listdir(_FD_FOLDER):
        # One of the files is the listed folder itself, which is closed by now.
        with contextlib.suppress(FileNotFoundError):
            found.add((name, os.readlink(_FD_FOLDER / name)))
    return found


def _environment() -> set[tuple[str, str]]:
    return {one for one in os.environ.items() if one[0] != "PYTEST_CURRENT_TEST"}


def _handlers() -> set[tuple[int, str]]:
    if sys.platform == "win32":
        return set()
    # SIGALRM belongs to pytest-timeout, which resets its handler when a test fails.
    numbers = signal.valid_signals() - {signal.SIGALRM}
    return {(number, repr(signal.getsignal(number))) for number in numbers}
