"""File locks, each held by one process at a time until the process ends."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import filelock
import pytest

from pytest_plan.engine.environments.lock import Flock, LibraryLock, file_lock

ROOT = Path(__file__).parents[3]
LONGEST = 20.0
HOLD = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from pytest_plan.engine.environments.lock import *
lock = {{kind}}(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""
Kind: TypeAlias = Callable[[Path], "Flock | LibraryLock"]
KINDS = pytest.mark.parametrize("kind", [Flock, LibraryLock])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file to lock."""
    return tmp_path / "lock"


@pytest.fixture
def holder(file: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of the test."""
    code = HOLD.format(kind=request.getfixturevalue("kind").__name__)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


@KINDS
class TestEach:
    """`Flock` and `LibraryLock` keep the same promises."""

    def test_it_is_held_until_it_is_let_go(self, file: Path, kind: Kind) -> None:
        """A released lock can be acquired again; releasing it twice has no effect."""
        lock = kind(file)
        assert not lock.is_held
        for one in (lock, lock, kind(file)):
            assert one.acquire()
            assert one.is_held
            one.release()
            one.release()
            assert not one.is_held

    def test_another_process_does_not_get_it(
        self, file: Path, kind: Kind, holder: subprocess.Popen[str]
    ) -> None:
        """The lock is free once its holder has ended, however it ended."""
        lock = kind(file)
        assert not lock.acquire()
        assert not lock.is_held
        holder.send_signal(signal.SIGKILL)
        holder.wait(LONGEST)
        assert lock.acquire()
        lock.release()

    def test_the_file_is_its_owners_alone(self, file: Path, kind: Kind) -> None:
        """Another user who could open the file could block its owner."""
        lock = kind(file)
        assert lock.acquire()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        lock.release()

    def test_it_keeps_the_library_out(self, file: Path, kind: Kind) -> None:
        """The library filelock cannot acquire the lock while we hold it."""
        lock = kind(file)
        assert lock.acquire()
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(file).acquire(timeout=0)
        lock.release()
        with filelock.FileLock(file).acquire(timeout=0):
            pass

    def test_the_library_keeps_it_out(self, file: Path, kind: Kind) -> None:
        """We cannot acquire the lock while filelock holds it."""
        with filelock.FileLock(file).acquire(timeout=0):
            assert not kind(file).acquire()

    def test_a_file_that_cannot_be_made_is_an_error(self, tmp_path: Path, kind: Kind) -> None:
        """The error is not mistaken for a lock that is held."""
        (tmp_path / "lock").mkdir()
        lock = kind(tmp_path / "lock")
        with pytest.raises(OSError, match="lock"):
            lock.acquire()
        assert not lock.is_held


class TestFlock:
    """What `Flock` promises and filelock does not."""

    def test_it_is_the_lock_of_this_system(self, file: Path) -> None:
        """`file_lock` returns a Flock where the system has `flock`."""
        assert type(file_lock(file)) is Flock

    def test_it_follows_no_link(self, file: Path, tmp_path: Path) -> None:
        """No file outside of the folder is created or locked."""
        file.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            Flock(file).acquire()
        assert not (tmp_path / "elsewhere").exists()

    @pytest.mark.parametrize("again", [True, False])
    def test_a_file_that_was_removed_meanwhile_is_not_locked(
        self, tmp_path: Path, again: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise the lock would be on a file that no other process can find."""
        folder = tmp_path / "folder"
        folder.mkdir()
        lock = Flock(folder / "lock")

        def open_and_lose(path: Path, *how: int) -> int:
            monkeypatch.undo()
            descriptor = os.open(path, *how)
            shutil.rmtree(folder)
            if again:
                folder.mkdir()
                (folder / "lock").touch()
            return descriptor

        monkeypatch.setattr(os, "open", open_and_lose)
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(FileNotFoundError):
            lock.acquire()
        assert not lock.is_held
        assert len(os.listdir("/proc/self/fd")) == descriptors

    def test_a_child_that_was_forked_has_nothing_of_it(self, file: Path) -> None:
        """A forked child neither holds the lock nor can it release ours."""
        lock = Flock(file)
        assert lock.acquire()
        child = os.fork()
        if child == 0:
            lock.release()
            os._exit(int(lock.is_held))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not Flock(file).acquire()
        lock.release()
        assert lock.acquire()
        lock.release()

    def test_it_is_let_go_for_whoever_has_a_copy(self, file: Path) -> None:
        """A child that a C library forked may still have the file open."""
        lock = Flock(file)
        assert lock.acquire()
        (descriptor,) = (
            int(one.name) for one in Path("/proc/self/fd").iterdir() if is_at(one, file)
        )
        copy = os.dup(descriptor)
        lock.release()
        assert lock.acquire()
        lock.release()
        os.close(copy)


def is_at(descriptor: Path, file: Path) -> bool:
    """Return whether a descriptor of this process refers to the file."""
    try:
        return descriptor.samefile(file)
    except OSError:  # the one by which the folder was listed, for example
        return False
