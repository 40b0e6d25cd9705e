"""Imports.

These figures show what a process imports because of pytest-plan. A run with one step lists its
modules when it ends, and so does a run with a session fixture instead of the step. The figure is
the cost of importing the modules that only the first run has. One row counts the whole run with
one step. The last rows measure a script and the reaper.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from pytest_plan.engine.environments.reaper import Reaper
from tests.benchmarks import instructions
from tests.benchmarks.instructions import MILLION, row
from tests.benchmarks.suite import EMPTY_PLUGIN, Suite
from tests.benchmarks.table import Row, at_most

MOST_INSTRUCTIONS = 150  # millions of instructions, for the reaper
MOST_MEMORY = 20  # MB, for the reaper

_CONFTEST = """
import sys

import pytest
from notes import note


@pytest.{decorator}
def server():
    return 1


def pytest_unconfigure(config):
    process = "worker" if hasattr(config, "workerinput") else "owner"
    ours = ("__main__", "conftest", "notes", "nothing", "test_it")
    note(" ".join([process, *(name for name in sys.modules if name not in ours)]))
"""
_TEST = "def test_it(server): assert server == 1\n"
_IMPORT = """
import contextlib
import importlib
import sys

for name in sys.argv[1:]:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
"""
_SCRIPT = """
from pytest_plan import GenericStep, Plan

Plan().add_step(GenericStep(exec=lambda: None)).execute()
"""


def rows(other: Path | None) -> Iterator[Row]:
    """Count and yield the rows."""
    for what, process, options in (
        ("pytest, solo", "owner", ()),
        ("pytest-xdist, the controller", "owner", ("-p", "xdist", "-n", "1")),
        ("pytest-xdist, a worker", "worker", ("-p", "xdist", "-n", "1")),
    ):
        yield row(what, _imports_of(process, *options), other, scale=MILLION)
    yield row("pytest, solo: the whole run with one step", _run, other, scale=MILLION)
    what = "a script: import and execution of a plan with one step"
    yield row(what, lambda root: _python(root, _SCRIPT), other, scale=MILLION)
    what = "the reaper's program once its owner has died, with the interpreter"
    yield row(what, _reaper, other, target=MOST_INSTRUCTIONS, scale=MILLION)
    yield at_most("the reaper's own memory while it waits", "MB", [_memory()], MOST_MEMORY, 1e6)


def _imports_of(process: str, *options: str) -> Callable[[Path], float]:
    """Return a function that counts the imports of `process` in a run with `options`."""

    def measure(root: Path) -> float:
        without = _modules(root, process, "fixture(scope='session')", EMPTY_PLUGIN, options)
        both = _modules(root, process, "mark.plan_step", "pytest_plan", options)
        more = [name for name in both if name not in without]
        return _python(root, _IMPORT, *without, *more) - _python(root, _IMPORT, *without)

    return measure


def _run(root: Path) -> float:
    """Return the number of instructions of a run with one step, from start to end."""
    files = {"conftest.py": _CONFTEST.format(decorator="mark.plan_step"), "test_it.py": _TEST}
    with Suite(files, "pytest_plan") as suite:
        return suite.count(root=root)


def _modules(
    root: Path, process: str, decorator: str, plugin: str, options: tuple[str, ...]
) -> list[str]:
    files = {"conftest.py": _CONFTEST.format(decorator=decorator), "test_it.py": _TEST}
    with Suite(files, plugin) as suite:
        suite.run(*options, root=root)
        lines = [line.split() for line in suite.history()]
    return next(names for owner, *names in lines if owner == process)


def _python(root: Path, program: str, *arguments: str) -> int:
    """Return the number of instructions of a Python process that runs `program`."""
    with tempfile.TemporaryDirectory() as name:
        environment = instructions.variables(root)
        counts = instructions.count(["-c", program, *arguments], Path(name), environment)
    return counts.instructions


def _reaper(root: Path) -> float:
    """Return the cost of importing the reaper's program; its place differs between checkouts."""
    (file,) = (root / "pytest_plan").rglob("reap.py")
    return _python(root, f"import {'.'.join(file.relative_to(root).with_suffix('').parts)}")


def _memory() -> float:
    """Return how many bytes of memory a waiting reaper alone uses, once the number is stable."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reaper = Reaper(folder / "journal", ["true"], dict(os.environ), folder / "log")
        try:
            process, before = psutil.Process(reaper.pid), -1
            while (used := process.memory_full_info().uss) != before:
                before = used
                time.sleep(0.1)
        finally:
            reaper.stop()
    return float(used)
