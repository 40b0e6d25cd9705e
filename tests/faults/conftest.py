"""Fixtures of the fault suite, and the code that publishes its table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.engine.support.fake_clock import FakeClock
from tests.faults.harness import table
from tests.faults.harness.scenario import Stage, Tally
from tests.faults.harness.zygote import Zygote
from tests.leftovers import nothing_left_behind  # noqa: F401

_PROPERTY = "faults"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, so that a plain run can leave them out."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """The counts of what this test injects; they are added to the published table."""
    tally = Tally()
    yield tally
    request.node.user_properties.append((_PROPERTY, vars(tally)))


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """The process that forks the runs."""
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture
def stage(tally: Tally, zygote: Zygote) -> Stage:
    """A stage without stories."""
    return Stage(tally, zygote)


@pytest.fixture
def clock() -> FakeClock:
    """A fake clock that needs no real time."""
    return FakeClock()


class _Counts:
    """Adds up what the tests injected."""

    def __init__(self) -> None:
        self._rows = table.Rows()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the counts of a test, which are complete after its teardown."""
        for name, counts in report.user_properties:
            if name == _PROPERTY and report.when == "teardown":
                self._rows.add(report.nodeid, cast("dict[str, int]", counts))

    def pytest_sessionfinish(self) -> None:
        """Write the table if the environment variable asks for it."""
        if os.environ.get(table.VARIABLE):
            table.write(self._rows)


def pytest_configure(config: pytest.Config) -> None:
    """Count in the process that sees all reports: solo or the controller."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Counts(), "faults_counts")
