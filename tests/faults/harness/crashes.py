"""A pytest plugin, loaded only by the fault suite, that kills a process at a durable write.

`CRASH_AT=before:3` kills before the third commit that a thread waits for. `after:3` kills when that
commit is on disk but the waiting threads have not been notified. With `CRASH_IN=cleanup` only the
commits of a process that runs `--plan-cleanup` count.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from typing import Any

from pytest_plan.engine.journal.writing.writer import Writer
from tests.faults.harness.fakes import note

AT, IN = "CRASH_AT", "CRASH_IN"  # environment variables


def pytest_configure(config: Any) -> None:
    """Count the commits of the process that owns the plan."""
    is_cleanup = "--plan-cleanup" in sys.argv
    if hasattr(config, "workerinput") or is_cleanup != (os.environ.get(IN) == "cleanup"):
        return
    when, _, number = os.environ[AT].partition(":")
    write, count = Writer._write, 0

    def counting(self: Writer, connection: sqlite3.Connection, batch: Any) -> None:
        nonlocal count
        count += any(request.answer is not None for request in batch)
        if count == int(number) and when == "before":
            _die()
        deaf: Any = [_Deaf(request) for request in batch]
        write(self, connection, deaf)
        if count == int(number):
            _die()
        for request in batch:
            if request.answer is not None:
                request.answer.put(None)

    Writer._write = counting  # type: ignore[method-assign]


class _Deaf:
    """A request whose answer is withheld until we know that the process survives this commit."""

    def __init__(self, request: Any) -> None:
        self.statements = request.statements
        self.answer = None


def _die() -> None:
    note("killed", os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)
