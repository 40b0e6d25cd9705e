"""Finds the `PlanSession` of this process without importing the engine in a run without steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_plan.plugin.options import Settings, settings
from pytest_plan.plugin.xdist import roles

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

_KEY: pytest.StashKey[PlanSession] = pytest.StashKey()


def peek(config: pytest.Config) -> PlanSession | None:
    """Return the plan session of this process, or None if none has been created."""
    return config.stash.get(_KEY, None)


def of(config: pytest.Config, options: Settings | None = None) -> PlanSession:
    """Return the plan session of this process; the first call creates it."""
    plan_session = peek(config)
    if plan_session is None:
        from pytest_plan.plugin.session.session import PlanSession

        plan_session = PlanSession(config, options or settings(config))
        config.stash[_KEY] = plan_session
        if not roles.is_worker(config):
            plan_session.load_reports()
    return plan_session
