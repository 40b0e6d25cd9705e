"""Fixtures for tests that run pytest: a project isolated from the surrounding test run."""

from __future__ import annotations

import os
import sys

import psutil  # noqa: F401 - otherwise each in-process run imports it again, which is slow
import pytest
import tenacity  # noqa: F401

import pytest_plan.engine.execution.run  # noqa: F401
from pytest_plan.engine.calls.stopping import escalation
from tests.plugin.project import OUTSIDE, ROOT, Project


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, byte_code: None) -> None:
    """Hide the settings of the surrounding test run from the runs inside it."""
    for name in [*OUTSIDE, *(name for name in os.environ if name.startswith("PYTEST_PLAN_"))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    # An in-process run would otherwise share the set of known marks with the outer run.
    monkeypatch.setattr(pytest.mark, "_config", None)
    monkeypatch.setattr(pytest.mark, "_markers", set())
    # Each run names the plugins that it wants; pytest-randomly would change the order of tests.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(pytester.path)]))
    return Project(pytester)


@pytest.fixture
def quick_escalation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Abandon a step that does not stop almost immediately."""
    for name in ("TERMINATE_AFTER", "KILL_AFTER", "ABANDON_AFTER"):
        monkeypatch.setattr(escalation, name, 0.01)
