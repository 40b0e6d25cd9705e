"""Ends a solo process whose test did not stop when the plan's limit was reached."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable

import pytest

from pytest_plan.engine.calls.threads import frame_of
from pytest_plan.engine.model.text import printable
from pytest_plan.plugin.main_thread.foreground import Foreground


def leave(foreground: Foreground, clean_up: Callable[[], None], item: pytest.Item) -> None:
    """Clean up on this thread, report which test hangs and where, and end the process.

    The main thread does not return, so pytest reports nothing: it prints no summary and writes no
    JUnit file. The exit status is that of the first signal, or 1 if there was none.

    Args:
        foreground: the object that writes the report to the terminal.
        clean_up: a function that cleans up the plan.
        item: the test that hangs.
    """
    stack = _stack_of_test(item)
    try:
        clean_up()
    finally:
        with foreground.output, foreground.output.visible():
            writer = item.config.get_terminal_writer()
            writer.line()
            writer.sep("=", "plan: limit", red=True)
            text = f"{item.nodeid} did not end after the plan's limit had passed:"
            writer.line(printable(foreground.mask(text)), red=True)
            writer.line(printable(foreground.mask(stack)))
            writer.line("the plan was cleaned up; pytest exits without a summary", red=True)
            writer.flush()
        os._exit(foreground.signals.exit_status() or pytest.ExitCode.TESTS_FAILED)


def _stack_of_test(item: pytest.Item) -> str:
    """Return the stack of the main thread, starting in the test's own module."""
    frame = frame_of(threading.main_thread().ident)
    entries = list(traceback.extract_stack(frame))
    own = [index for index, entry in enumerate(entries) if entry.filename == str(item.path)]
    return "".join(traceback.format_list(entries[own[0] if own else 0 :]))
