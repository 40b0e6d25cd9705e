"""Marks the tests of this folder, and collects what the table of the plugins says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.plugins import table

_PROPERTY = "cells"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, which need an environment that has all those plugins."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.plugins)


@pytest.fixture
def cells(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What this test has seen, by column of the table."""
    cells: dict[str, str] = {}
    yield cells
    request.node.user_properties.append((_PROPERTY, cells))


class _Cells:
    """Collects what the tests have seen."""

    def __init__(self) -> None:
        self._rows = table.Rows()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the cells of a test; a test that failed has none."""
        for name, cells in report.user_properties:
            if name == _PROPERTY and report.when == "teardown":
                self._rows.add(cast("dict[str, str]", cells))

    def pytest_sessionfinish(self) -> None:
        """Write the table if the environment variable asks for it."""
        if os.environ.get(table.VARIABLE):
            table.write(self._rows)


def pytest_configure(config: pytest.Config) -> None:
    """Collect in the process that sees all reports: solo or the controller."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Cells(), "plugin_cells")
