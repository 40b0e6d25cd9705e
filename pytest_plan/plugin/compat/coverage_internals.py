"""Internals of coverage.py and pytest-cov, each with a fallback for a version that lacks them.

A module of its own, because it is about other projects.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Generator, Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def measure_threads() -> Iterator[None]:
    """Within this context, let coverage.py measure new threads as it measures this thread.

    Steps run on threads of their own. With a setting such as `concurrency = multiprocessing`,
    coverage.py measures only the thread that started it, where fixtures run. Nothing changes if
    coverage.py does not run or measures threads already, or if this version of it works in another
    way.
    """
    collector = _collector_without_threads()
    if collector is None:
        yield
        return
    collector.threading = threading  # each tracer that is created now must know its thread
    threading.settrace(collector._installation_trace)
    try:
        yield
    finally:
        collector.threading = None
        threading.settrace(None)  # as coverage.py does


def _collector_without_threads() -> Any:
    """Return the collector that measures this thread but no new one, or None if there is none."""
    coverage: Any = sys.modules.get("coverage")
    if coverage is None or sys.gettrace() is None or threading.gettrace() is not None:
        return None
    try:
        collector = coverage.Coverage.current()._collector
        tracers = [getattr(tracer, "_trace", tracer) for tracer in collector.tracers]
        is_asked = collector.threading is None and hasattr(collector, "_installation_trace")
    except AttributeError:
        return None
    return collector if is_asked and sys.gettrace() in tracers else None


def allow_no_data(config: pytest.Config) -> None:
    """Keep pytest-cov from warning that this worker has measured nothing.

    The code of steps runs in the controller, so a worker may have nothing to measure. If this
    version of pytest-cov works in another way, the warning stays.
    """
    plugin = config.pluginmanager.get_plugin("_cov")
    coverage: Any = getattr(getattr(plugin, "cov_controller", None), "cov", None)
    if hasattr(coverage, "_warn_no_data"):
        coverage._warn_no_data = False


def report_unwritable_data(session: pytest.Session) -> Generator[None, object, object]:
    """Run what is at the `yield`, and fail the session if coverage data cannot be written.

    pytest-cov does not handle that error, and pytest would report an INTERNALERROR.

    Raises:
        pytest.Session.Failed: coverage data cannot be written; the message says why.
    """
    try:
        return (yield)
    except Exception as error:
        if not is_of_coverage(error):
            raise
        session.shouldfail = f"coverage data cannot be written: {error}"
        raise session.Failed(session.shouldfail) from error


def is_of_coverage(error: Exception) -> bool:
    """Return whether coverage.py raised the error because of a file, or to report a problem."""
    if type(error).__module__ == "coverage.exceptions":
        return True
    frames = traceback.walk_tb(error.__traceback__)
    modules = (frame.f_globals.get("__name__", "") for frame, _ in frames)
    return isinstance(error, OSError) and any(name.startswith("coverage.") for name in modules)
