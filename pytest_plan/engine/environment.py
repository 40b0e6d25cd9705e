"""The folder of one environment: its lock, its journal, and who has it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from pytest_plan.engine.durations import format_duration
from pytest_plan.engine.errors import JournalError
from pytest_plan.engine.identity import ourselves
from pytest_plan.engine.journal import Journal
from pytest_plan.engine.places import check_private, make_private
from pytest_plan.engine.recorded import Recorded, read
from pytest_plan.engine.reference import References

FOLDER = "environments"
JOURNAL = "journal.sqlite"
_LOCK = "lock"


class Environment:
    """An environment that is ours until `release`.

    Args:
        parent: the `plan_dir`.
        name: names it in there; letters, digits, `.`, `_` and `-`.

    Attributes:
        name: its name.
        folder: where its journal is.

    Raises:
        JournalError: another process has it, or its folder is unusable.
    """

    def __init__(self, parent: Path, name: str) -> None:
        self.name = name
        self.folder = parent / FOLDER / name
        make_private(self.folder, parent.parent if not parent.exists() else parent)
        self._lock = filelock.FileLock(self.folder / _LOCK, mode=0o600, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise JournalError(_busy(name, self.folder)) from None
        _close_in_children(self._lock)

    @property
    def file(self) -> Path:
        """Its journal."""
        return self.folder / JOURNAL

    def recorded(self) -> Recorded | None:
        """Return what its journal tells; None when it has none.

        Raises:
            JournalError: the journal cannot be read.
        """
        if not self.file.exists():
            return None
        check_private(self.file)
        return read(self.file)

    def open(self, references: References, fingerprint: Callable[[str], str]) -> Journal:
        """Return its journal, to write in; note that we have the environment now."""
        journal = Journal(self.file, references, fingerprint)
        who = ourselves()
        journal.set(
            name=self.name,
            status="open",
            owner={"pid": who.pid, "birth": who.birth, "boot": who.boot},
            host=socket.gethostname(),
            since=time.time(),
        )
        return journal

    def release(self, *, remove: bool) -> None:
        """Let go of it; `remove` it when nothing is left of it."""
        if remove:
            for file in self.folder.glob(f"{JOURNAL}*"):
                file.unlink(missing_ok=True)
        if remove and self.name.startswith("run-"):
            # Nobody else ever waits for the lock of a run.
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
        if remove:
            for folder in (self.folder.parent, self.folder.parent.parent):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def names(parent: Path) -> list[str]:
    """Return the environments that have a journal, the oldest first."""
    files = list((parent / FOLDER).glob(f"*/{JOURNAL}"))
    return [file.parent.name for file in sorted(files, key=lambda file: file.stat().st_mtime)]


@contextlib.contextmanager
def claimed(parent: Path, name: str) -> Iterator[Environment | None]:
    """Give an environment whose owner is dead, None while somebody has it."""
    try:
        environment = Environment(parent, name)
    except JournalError:
        yield None
        return
    released = False
    try:
        yield environment
        released = True
    finally:
        if not released:
            environment.release(remove=False)


def _busy(name: str, folder: Path) -> str:
    text = f"the environment {name!r} is in use"
    with contextlib.suppress(JournalError):
        facts = read(folder / JOURNAL).facts
        age = format_duration(max(0.0, time.time() - facts["since"]))
        text += f" by process {facts['owner']['pid']} on {facts['host']}, for {age}"
    return f"{text}: wait for it, or take another name (--plan-environment NAME)"


def _close_in_children(lock: filelock.BaseFileLock) -> None:
    """Keep a child that a step forks from holding the lock when we are gone."""
    if not hasattr(os, "register_at_fork"):
        return

    def close() -> None:
        # Not public; without it such a child keeps the environment until it ends.
        file = getattr(getattr(lock, "_context", None), "lock_file_fd", None)
        if file is not None:
            with contextlib.suppress(OSError):
                os.close(file)

    os.register_at_fork(after_in_child=close)
