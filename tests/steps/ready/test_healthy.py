"""The condition `healthy`."""

from __future__ import annotations

import pytest

from pytest_plan import PlanDefinitionError
from pytest_plan.steps import healthy
from tests.steps.ready.targets import Fixed, answer


def test_a_healthy_target_is_ready() -> None:
    """Any other state is the answer."""
    assert answer(healthy(), Fixed(health="healthy")) is None
    assert answer(healthy(), Fixed(health="starting")) == "healthy: starting"


def test_a_target_without_a_health_check_is_an_error() -> None:
    """The message says that only containers have one."""
    with pytest.raises(PlanDefinitionError, match="'fixed' has no health check; only containers"):
        answer(healthy(), Fixed())
