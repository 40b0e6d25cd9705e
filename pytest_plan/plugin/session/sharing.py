"""The store of the State in a run that shares its environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_plan.plugin.xdist import roles

if TYPE_CHECKING:
    from pytest_plan.engine.shared.store import LocalStore


def store_of(config: pytest.Config) -> LocalStore:
    """Return a new store for this process, which runs the plan, with workers or without."""
    if roles.is_controller(config):
        from pytest_plan.plugin.session.controller.environment_store import ControllerStore

        return ControllerStore()
    from pytest_plan.plugin.run.environments.sharing.state import EnvironmentStore

    return EnvironmentStore()
