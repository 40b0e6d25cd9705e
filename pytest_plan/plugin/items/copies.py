"""Ends forked copies of the process: those of tests, and those of modules that are collected.

Such a copy of pytest would collect and run the remaining tests, tear down the fixtures, and print
another summary. Instead it exits with the status, and writes the traceback, of a Python program.
"""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest

from pytest_plan.engine.processes.copies import end_copy, getpid


class CollectionCopies:
    """Ends the copies that code forks while pytest collects; registered only if there is a plan.

    Args:
        process: the pid of the process that runs pytest.
    """

    def __init__(self, process: int) -> None:
        self._process = process

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """End a process that was forked outside a collector, or before the collection."""
        end_copy(self._process, None)
        try:
            result = yield
        except BaseException as error:
            end_copy(self._process, error)
            raise
        end_copy(self._process, None)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self,
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """End a process that a module or conftest has forked while it was imported."""
        try:
            report = yield
        except BaseException as error:
            end_copy(self._process, error)
            raise
        if getpid() != self._process:
            if report.failed:
                sys.stderr.write(f"{report.longreprtext}\n")
                sys.stderr.flush()
            end_copy(self._process, SystemExit(1) if report.failed else None)
        return report


def without_copies(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test, or one phase of it; if it forks, end the forked process afterward."""
    __tracebackhide__ = True
    process = getpid()
    try:
        result = yield
    except BaseException as error:
        if getpid() != process:
            _show(item, error)
            end_copy(process, error)
        raise
    end_copy(process, None)
    return result


def _show(item: pytest.Item, error: BaseException) -> None:
    if isinstance(error, SystemExit):
        return
    found = pytest.ExceptionInfo.from_exception(error)
    found.traceback = found.traceback.cut(path=item.path)
    sys.stderr.write(f"{found.getrepr(style='short')}\n")
    sys.stderr.flush()
