"""Fixtures for tests that run pytest: a project apart from everything around it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # noqa: F401 - a run in this process forgets what it imports itself: slow
import pytest
import tenacity  # noqa: F401

import pytest_plan.engine.run  # noqa: F401
from pytest_plan.engine import ladder
from tests.plugin.project import ROOT, Project

_SETTLE = 5.0  # real seconds in which a thread that is ending must be gone
_OUTSIDE = ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "NO_COLOR", "FORCE_COLOR", "PYTEST_PLUGINS")


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what the runs of these tests make apart from others on the same machine."""
    tmp_path_factory.getbasetemp()  # pytest's own folders stay where they belong
    folder = Path(tempfile.mkdtemp(prefix="p"))  # short: paths of sockets lie below it
    folder.chmod(0o711)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what surrounds the suite from the runs in it."""
    for name in [*_OUTSIDE, *(name for name in os.environ if name.startswith("PYTEST_PLAN_"))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    # The one thing that a run in this process would share with ours: which marks are known.
    monkeypatch.setattr(pytest.mark, "_config", None)
    monkeypatch.setattr(pytest.mark, "_markers", set())
    # Each run names the plugins it wants; pytest-randomly would change the order of everything.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture(autouse=True)
def nothing_left_behind(own_temporary_folder: Path) -> Iterator[None]:
    """Fail a test whose runs leave a folder, a stream or a variable of this process changed."""
    streams, variables = (sys.stdout, sys.stderr), dict(os.environ)
    threads = set(threading.enumerate())
    yield
    deadline = time.monotonic() + _SETTLE
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        time.sleep(0.002)
    assert set(threading.enumerate()) - threads == set()
    assert set(own_temporary_folder.glob("plan-*")) == set()
    assert (sys.stdout, sys.stderr) == streams
    changed = set(os.environ.items()) ^ set(variables.items())
    assert {name for name, _ in changed} <= {"PYTEST_CURRENT_TEST"}


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(pytester.path)]))
    return Project(pytester)


@pytest.fixture
def quick_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step that does not stop be given up at once."""
    for name in ("TERMINATE_AFTER", "KILL_AFTER", "ABANDON_AFTER"):
        monkeypatch.setattr(ladder, name, 0.01)
