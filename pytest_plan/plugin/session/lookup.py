"""Finds the `PlanSession` of this process without importing the engine in a run without steps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_plan.plugin.interface.options import Settings, settings
from pytest_plan.plugin.xdist import roles

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

_KEY: pytest.StashKey[PlanSession] = pytest.StashKey()
_PROCESS: pytest.StashKey[int] = pytest.StashKey()
FAILURES: pytest.StashKey[list[str]] = pytest.StashKey()  # what a command could not load


def remember_process(config: pytest.Config) -> None:
    """Remember that this process runs pytest, and no copy of it. Call this before any conftest."""
    config.stash[_PROCESS] = os.getpid()


def peek(config: pytest.Config) -> PlanSession | None:
    """Return the plan session of this process, or None if none has been created."""
    return config.stash.get(_KEY, None)


def of(config: pytest.Config, options: Settings | None = None) -> PlanSession:
    """Return the plan session of this process; the first call creates it."""
    plan_session = peek(config)
    if plan_session is None:
        from pytest_plan.engine.processes.copies import end_copy
        from pytest_plan.plugin.interface import reports
        from pytest_plan.plugin.items.copies import CollectionCopies
        from pytest_plan.plugin.session.session import PlanSession

        plan_session = PlanSession(config, options or settings(config))
        config.stash[_KEY] = plan_session
        process = config.stash.get(_PROCESS, os.getpid())
        end_copy(process, None)  # an initial conftest has forked this process
        config.pluginmanager.register(CollectionCopies(process), "pytest_plan_copies")
        if not roles.is_worker(config):
            reports.load_reports(config, plan_session.settings)
    return plan_session
