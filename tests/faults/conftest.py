"""Fixtures of the fault suite: a stage, a check that nothing stays behind, the published table."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from tests.engine.fake_clock import FakeClock
from tests.faults import table
from tests.faults.scenario import Stage, Tally

_SETTLE = 5.0  # real seconds in which something that is ending must be gone
_FDS = Path("/proc/self/fd")
_PROPERTY = "faults"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, so that a plain run can leave them out."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what these tests make apart from others on the same machine."""
    tmp_path_factory.getbasetemp()  # pytest's own folders stay where they belong
    folder = Path(tempfile.mkdtemp(prefix="f"))  # short: paths of sockets lie below it
    folder.chmod(0o711)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_left_behind(own_temporary_folder: Path) -> Iterator[None]:
    """Fail a test that leaves a thread, process, file descriptor, handler, variable or folder."""
    looks: dict[str, Callable[[], set[Any]]] = {
        "threads": _threads,
        "processes": lambda: set(psutil.Process().children(recursive=True)),
        "file descriptors": _descriptors,
        "signal handlers": _handlers,
        "environment": lambda: {
            one for one in os.environ.items() if one[0] != "PYTEST_CURRENT_TEST"
        },
        "temporary folders": lambda: set(own_temporary_folder.iterdir()),
    }
    before = {what: look() for what, look in looks.items()}
    yield
    deadline = time.monotonic() + _SETTLE
    for what, look in looks.items():
        while (found := look()) != before[what] and time.monotonic() < deadline:
            time.sleep(0.005)
        assert found == before[what], f"{what} changed: {found ^ before[what]}"


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """What this test injects; it ends up in the published table."""
    tally = Tally()
    yield tally
    request.node.user_properties.append((_PROPERTY, vars(tally)))


@pytest.fixture
def stage(tally: Tally) -> Stage:
    """An empty stage."""
    return Stage(tally)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that needs no real time."""
    return FakeClock()


class _Counts:
    """Adds up what the tests injected."""

    def __init__(self) -> None:
        self._rows = table.Rows()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the counts of a test, which are complete after its teardown."""
        for name, counts in report.user_properties:
            if name == _PROPERTY and report.when == "teardown":
                self._rows.add(report.nodeid, cast("dict[str, int]", counts))

    def pytest_sessionfinish(self) -> None:
        """Write the table, if it is asked for."""
        if os.environ.get(table.VARIABLE):
            table.write(self._rows)


def pytest_configure(config: pytest.Config) -> None:
    """Count in the process that sees all reports."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Counts(), "faults_counts")


def _threads() -> set[threading.Thread]:
    # pytest-timeout's timer goes when a test fails.
    return {thread for thread in threading.enumerate() if "pytest_timeout" not in thread.name}


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for name in os.listdir(_FDS):
        try:
            found.add((name, os.readlink(_FDS / name)))
        except FileNotFoundError:
            continue  # the one by which the folder was listed
    return found


def _handlers() -> set[tuple[int, str]]:
    # SIGALRM is pytest-timeout's, which takes it away when a test fails.
    numbers = signal.valid_signals() - {signal.SIGALRM}
    return {(number, repr(signal.getsignal(number))) for number in numbers}
