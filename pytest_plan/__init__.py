"""Staged test environments: steps become a plan, run once, cleaned up in reverse.

PYTEST_DONT_REWRITE (the package has no asserts that pytest should rewrite)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Where each name is. Imported at first use: a run of pytest without steps imports no engine, and
# the engine no pytest. No __dir__: pytest would look at, and so import, whatever it lists.
_HOMES = {
    "engine.context": ("Context",),
    "engine.errors": (
        "CleanupError",
        "PlanCancelledError",
        "PlanDefinitionError",
        "PlanError",
        "PlanTimeoutError",
        "StateError",
        "StepError",
        "StepTimeoutError",
    ),
    "engine.outcomes": ("CleanupOutcome", "StepOutcome"),
    "engine.plan": ("Plan",),
    "engine.results": ("PlanResult", "StepResult"),
    "engine.secret": ("Secret",),
    "engine.state": ("State",),
    "engine.step": ("GenericStep", "Step"),
    "plugin.handle": ("PlanHandle",),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        return import_module("importlib.metadata").version("pytest-plan")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
