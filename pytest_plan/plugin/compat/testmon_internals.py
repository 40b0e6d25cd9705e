"""Internals of pytest-testmon, which selects the tests that a change of the code affects.

pytest-testmon records the lines that run during a test. Steps run before the tests and on other
threads, so the lines that they run are added here to each test that needs them. If pytest-testmon
has other internals, a warning says that they are not.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

import pytest

from pytest_plan.engine.shared.log import StepLog, current_log
from pytest_plan.plugin.compat.pytest_internals import warn

_ASKS = ("testmon", "testmon_noselect", "testmon_forceselect", "tmnet")
_RECORDER = "pytest_plan_testmon"
_LINES = "nodes_files_lines"  # pytest-testmon's: the lines of each file, for each test
_NEEDS = "plan_needs"  # ours, in the same reports: the steps that each of these tests needs
_HAS_WARNED: pytest.StashKey[bool] = pytest.StashKey()
_UNKNOWN = (
    "this version of pytest-testmon is not known: a change of code that only a step runs does not "
    "select the tests that need the step"
)


@contextlib.contextmanager
def recording(config: pytest.Config) -> Iterator[None]:
    """Record the code that the steps run within this context, if pytest-testmon collects data."""
    recorder = _recorder(config)
    if recorder is None:
        yield
        return
    before = threading.getprofile()
    threading.setprofile(recorder.profile)  # for threads that start now: those of steps
    try:
        yield
    finally:
        threading.setprofile(before)


def report_needs(config: pytest.Config, needs: Callable[[], Mapping[str, Collection[str]]]) -> None:
    """Let the reports of tests say which steps the tests need, if pytest-testmon collects data.

    Args:
        config: the config of a process that runs tests.
        needs: a function that returns the steps that each test needs, by its node id.
    """
    if _collector(config) is not None:
        config.pluginmanager.register(_Reporter(needs))


def _collector(config: pytest.Config) -> object | None:
    """Return the plugin with which pytest-testmon collects data, or None."""
    plugin = config.pluginmanager.get_plugin("TestmonCollect")
    collects = hasattr(getattr(plugin, "testmon", None), "get_batch_coverage_data")
    return plugin if collects else None


def _recorder(config: pytest.Config) -> _Recorder | None:
    recorder: Any = config.pluginmanager.get_plugin(_RECORDER)
    if recorder is None and any(getattr(config.option, name, False) for name in _ASKS):
        if _collector(config) is not None:
            recorder = _Recorder(str(config.rootpath))
            config.pluginmanager.register(recorder, _RECORDER)
        elif getattr(getattr(config, "testmon_config", None), "collect", True):
            if not config.stash.get(_HAS_WARNED, False):
                warn(config, _UNKNOWN)
            config.stash[_HAS_WARNED] = True
    found: _Recorder | None = recorder
    return found


class _Recorder:
    """Records which code each step runs, and adds its lines to the tests that need the step.

    Args:
        root: the folder whose files count.
    """

    def __init__(self, root: str) -> None:
        import sysconfig  # here because only a run with pytest-testmon needs it

        self._root = os.path.join(root, "")
        paths = sysconfig.get_paths().items()
        self._libraries = tuple(os.path.join(path, "") for key, path in paths if "lib" in key)
        # None is for threads that a step has started: what they run counts for every step.
        self._codes: dict[StepLog | None, set[CodeType]] = {}

    def profile(self, frame: FrameType, event: str, argument: object) -> None:
        """Record a call of a Python function; the interpreter calls this on each such thread."""
        if event == "call":
            self._codes.setdefault(current_log.get(), set()).add(frame.f_code)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the lines of steps to those of the tests that need them."""
        for test, steps in vars(report).pop(_NEEDS, {}).items():
            files = getattr(report, _LINES)[test]
            for code in self._codes_of(steps):
                if name := self._relative(code.co_filename):
                    lines = {line for *_, line in code.co_lines() if line}
                    files[name] = lines.union(files.get(name, ()))

    def _codes_of(self, steps: Collection[str]) -> Iterator[CodeType]:
        for log, codes in list(self._codes.items()):
            if log is None or log.step in steps:
                yield from list(codes)

    def _relative(self, file: str) -> str | None:
        """Return the name of a file as pytest-testmon writes it; None if it does not count."""
        if not file.startswith(self._root) or file.startswith(self._libraries):
            return None
        return file.removeprefix(self._root).replace(os.sep, "/")


class _Reporter:
    """Adds to the reports that have the lines of tests which steps these tests need."""

    def __init__(self, needs: Callable[[], Mapping[str, Collection[str]]]) -> None:
        self._needs = needs
        self._known: Mapping[str, Collection[str]] | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add the needs of all tests whose lines pytest-testmon has put into the report."""
        report = yield
        if lines := getattr(report, _LINES, None):
            if self._known is None:
                self._known = self._needs()
            needs = {test: sorted(self._known.get(test, ())) for test in lines}
            report.plan_needs = {test: steps for test, steps in needs.items() if steps}  # type: ignore[attr-defined]
        return report
