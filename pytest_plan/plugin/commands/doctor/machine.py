"""Checks what this machine lets pytest-plan do, by doing it once."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_plan.engine.environments.environment import LOCK, LOG, Environment
from pytest_plan.engine.environments.lock import file_lock
from pytest_plan.engine.environments.private import file_system_of, is_remote
from pytest_plan.engine.environments.reaper import Reaper
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.copies import getpid
from pytest_plan.plugin.commands.doctor.finding import Finding, Level
from pytest_plan.plugin.interface.options import Settings
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.environments.recovery import references_of

_LONGEST = 60  # bytes of the temporary folder, because a socket path may have at most 107
_LEAST = 100 * 2**20  # bytes that should be free


def temporary_folder() -> Iterator[Finding]:
    """Check the system's temporary folder, where steps and their programs write."""
    subject, parent = "temporary", Path(tempfile.gettempdir())
    kind = file_system_of(parent)
    text = f"{parent} ({kind or 'unknown file system'})"
    cure = "set TMPDIR to another folder"
    try:
        folder = Path(tempfile.mkdtemp(prefix="plan-doctor-"))
        try:
            folder.chmod(0o711)
            has_modes = folder.stat().st_mode & 0o777 == 0o711
        finally:
            folder.rmdir()
    except OSError as error:
        why = f"{text}: {error.strerror or error}"
        yield Finding(Level.PROBLEM, subject, why, cure)
        return
    free = shutil.disk_usage(parent).free
    notes = {
        "it is on a network file system": is_remote(kind),
        "it ignores permissions": not has_modes,
        "it does not let programs run (noexec)": _is_noexec(parent),
        f"only {free // 2**20} MiB are free": free < _LEAST,
        "its path is so long that socket paths may be too long": (
            len(os.fsencode(parent)) > _LONGEST
        ),
    }
    found = ", ".join(note for note, is_true in notes.items() if is_true)
    if found:
        yield Finding(Level.NOTE, subject, f"{text}: {found}", cure)
    else:
        yield Finding(Level.OK, subject, text)


def _is_noexec(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0))


def descriptors() -> Iterator[Finding]:
    """Check whether the system tells when a process ends."""
    try:
        os.close(os.pidfd_open(getpid()))
    except (OSError, AttributeError):
        text = "not available: the end of a program is noticed within 0.5 s, not at once"
        yield Finding(Level.NOTE, "pidfd", text)
    else:
        yield Finding(Level.OK, "pidfd", "available")


def journal(config: pytest.Config, settings: Settings) -> Iterator[Finding]:
    """Check that an environment can be recorded: its folder, its lock, its journal, its reaper.

    Args:
        config: the config of this process.
        settings: the options.
    """
    key = launch.key_of(config)
    if key.problem is None:
        yield Finding(Level.OK, "key", "seals journals, and lasts from run to run")
    else:
        cure = "make that folder writable, or set PYTEST_PLAN_KEY"
        text = f"exists in this run only, so nothing can be kept: {key.problem}"
        yield Finding(Level.PROBLEM, "key", text, cure)
    folder = settings.dir
    try:
        environment = Environment(folder, f"doctor-{secrets.token_hex(4)}", key)
    except (JournalError, OSError) as error:
        cure = "set plan_dir to a local folder that you may write"
        yield Finding(Level.PROBLEM, "plan_dir", str(error), cure)
        return
    try:
        kind = file_system_of(folder) or "unknown file system"
        yield Finding(Level.OK, "plan_dir", f"{folder} ({kind}), private")
        yield _lock(environment)
        yield from _record(config, environment)
    finally:
        environment.release(remove=True)


def _lock(environment: Environment) -> Finding:
    if file_lock(environment.folder / LOCK).acquire():
        cure = "set plan_dir to a folder on another file system"
        text = "two processes can hold the same lock here"
        return Finding(Level.PROBLEM, "locks", text, cure)
    return Finding(Level.OK, "locks", "exclude a second process")


def _record(config: pytest.Config, environment: Environment) -> Iterator[Finding]:
    """Write a journal, and let a reaper watch it."""
    try:
        found = Journal(environment.file, references_of(config), key=environment.key)
        try:
            found.set(run="doctor")
        finally:
            found.close()
    except (JournalError, OSError) as error:
        cure = "set plan_dir to a folder on another file system"
        yield Finding(Level.PROBLEM, "journal", str(error), cure)
        return
    yield Finding(Level.OK, "journal", f"can be written (SQLite {sqlite3.sqlite_version})")
    yield _reaper(environment)


def _reaper(environment: Environment) -> Finding:
    log = environment.folder / LOG
    left = "without it, only the next run cleans up after a killed one"
    try:
        status = Reaper(environment.file, [sys.executable, "-c", ""], os.environ, log).stop()
    except OSError as error:
        return Finding(Level.PROBLEM, "reaper", f"cannot be started: {error}", left)
    if status < 0:
        return Finding(Level.NOTE, "reaper", "has started, but did not answer within 1 s")
    if status > 0:
        with contextlib.suppress(OSError):
            lines = log.read_text(errors="replace").splitlines()
            left = f"{lines[-1]}; {left}" if lines else left
        return Finding(Level.PROBLEM, "reaper", f"has exited with status {status}", left)
    return Finding(Level.OK, "reaper", "starts")
