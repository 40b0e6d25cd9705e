"""Runs a command once, for all runs that need its result."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.processes.process import arguments_of

_EVERY = 0.1  # seconds between two tries to get the lock


def run_once(
    ctx: Context, argv: Sequence[str | os.PathLike[str]], *, creates: str | os.PathLike[str]
) -> bool:
    """Run a command unless it has already created a file or folder. Cleanup leaves that in place.

    While the command runs, the file `.NAME.unfinished` is beside `creates`. It stays if the command
    fails or is killed, and the next call then runs the command again.
    Of several runs at once, one runs the command and the others wait.

    Args:
        ctx: the `ctx` of the hook.
        argv: the command and its arguments, never a shell string.
        creates: the file or folder; a relative path is relative to the working directory. If the
            command succeeds without creating it, it becomes an empty file.

    Returns:
        Whether this call has run the command.

    Raises:
        PlanDefinitionError: `creates` is empty or no path.
        subprocess.CalledProcessError: the command failed.
        TypeError, OSError, PlanError: see `Context.run`.
    """
    arguments, target = arguments_of(argv), _path(creates)
    marker = target.with_name(f".{target.name}.unfinished")
    if target.exists() and not marker.exists():
        ctx.log(f"{target} exists: {shlex.join(arguments)} is not run")
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(ctx, marker):
        if target.exists() and not marker.stat().st_size:
            marker.unlink()
            ctx.log(f"another run has created {target}")
            return False
        marker.write_text("the command that creates this has not succeeded\n")
        ctx.run(arguments)
        if not target.exists():
            target.touch()
        marker.unlink()
    return True


def _path(creates: object) -> Path:
    found = os.fspath(creates) if isinstance(creates, str | os.PathLike) else None
    if not isinstance(found, str) or not Path(found).name:
        raise PlanDefinitionError(
            f"run_once: creates is {creates!r}; use the path of a file or folder"
        )
    return Path(found).absolute()


@contextlib.contextmanager
def _locked(ctx: Context, marker: Path) -> Iterator[None]:
    """Hold the lock on the marker, which is created if it is missing."""
    from pytest_plan.engine.environments.lock import file_lock

    lock, has_waited = file_lock(marker), False
    while not _acquired(lock.acquire):
        if not has_waited:
            ctx.log(f"waiting for another run, which holds {marker}")
            has_waited = True
        ctx.sleep(_EVERY)
    try:
        yield
    finally:
        lock.release()


def _acquired(acquire: Callable[[], bool]) -> bool:
    try:
        return acquire()
    except FileNotFoundError:  # the run that had the lock has removed the file
        return False
