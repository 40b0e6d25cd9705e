"""Staged test environments: steps become a plan, run once, cleaned up in reverse.

PYTEST_DONT_REWRITE (the package has no asserts that pytest should rewrite)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_plan.engine.context import Context
from pytest_plan.engine.errors import (
    CleanupError,
    PlanCancelledError,
    PlanDefinitionError,
    PlanError,
    PlanTimeoutError,
    StateError,
    StepError,
    StepTimeoutError,
)
from pytest_plan.engine.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.plan import Plan
from pytest_plan.engine.results import PlanResult, StepResult
from pytest_plan.engine.secret import Secret
from pytest_plan.engine.state import State
from pytest_plan.engine.step import GenericStep, Step

if TYPE_CHECKING:
    from pytest_plan.plugin.handle import PlanHandle

__all__ = [
    "CleanupError",
    "CleanupOutcome",
    "Context",
    "GenericStep",
    "Plan",
    "PlanCancelledError",
    "PlanDefinitionError",
    "PlanError",
    "PlanHandle",
    "PlanResult",
    "PlanTimeoutError",
    "Secret",
    "State",
    "StateError",
    "Step",
    "StepError",
    "StepOutcome",
    "StepResult",
    "StepTimeoutError",
]

# For `-p pytest_plan` where the package is not installed but importable.
pytest_plugins = ("pytest_plan.plugin",)


def __getattr__(name: str) -> Any:
    if name == "PlanHandle":
        # Its package is the plugin's, which needs pytest; the engine does not.
        from pytest_plan.plugin.handle import PlanHandle

        return PlanHandle
    if name == "__version__":
        from importlib.metadata import version

        return version("pytest-plan")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
