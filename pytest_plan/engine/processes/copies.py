"""Forked copies of this process, which must leave the plan alone.

It is a module of its own because workers import it, and nothing else of this package.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

getpid = os.getpid  # a test that replaces `os.getpid` is in no copy of the process

_RETURNED = (StopIteration, StopAsyncIteration)  # how coroutines and async generators return


def end_copy(process: int, error: BaseException | None) -> None:
    """End this process if user code has forked it: only the original process continues the plan.

    Nothing else runs in the copy, neither a cleanup nor a function registered with atexit.

    Args:
        process: the pid of the original process.
        error: the exception that the user code raised; it decides the exit status. None means that
            the code has returned.
    """
    if getpid() == process:
        return
    code = error.code if isinstance(error, SystemExit) else error
    os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))


def call_in_original(process: int, function: Callable[[], T]) -> T:
    """Call `function` and return its value; end this process if `function` has forked it.

    Args:
        process: the pid of the original process.
        function: the function to call, possibly one step of a coroutine.
    """
    try:
        value = function()
    except BaseException as error:
        end_copy(process, None if isinstance(error, _RETURNED) else error)
        raise
    end_copy(process, None)
    return value


def call_in_copies(method: Callable[[], object]) -> None:
    """Call a bound method in every forked copy of this process, before the copy continues.

    Args:
        method: the method. It is called only while its object exists.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_while_it_exists(method))


def call_after_forks(method: Callable[[], object]) -> None:
    """Call a bound method in this process after each fork.

    Args:
        method: the method. It is called only while its object exists.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_parent=_while_it_exists(method))


def _while_it_exists(method: Callable[[], object]) -> Callable[[], None]:
    reference = weakref.WeakMethod(method)

    def call() -> None:
        found = reference()
        if found is not None:
            found()

    return call
