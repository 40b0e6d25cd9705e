"""Forked copies of this process, which must leave the plan alone.

It is a module of its own because workers import it, and nothing else of this package.
"""

from __future__ import annotations

import os


def end_copy(process: int, error: BaseException | None) -> None:
    """End this process if user code has forked it: only the original process continues the plan.

    Nothing else runs in the copy, neither a cleanup nor a function registered with atexit.

    Args:
        process: the pid of the original process.
        error: the exception that the user code raised; it decides the exit status. None means that
            the code has returned.
    """
    if os.getpid() == process:
        return
    code = error.code if isinstance(error, SystemExit) else error
    os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))
