"""Staged test environments: steps become a plan, run once, cleaned up in reverse.

PYTEST_DONT_REWRITE (the package has no asserts that pytest should rewrite)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_plan.engine.calls.context import Context
    from pytest_plan.engine.definition.step import GenericStep, Step
    from pytest_plan.engine.model.errors import PlanDefinitionError, PlanError, StateError
    from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
    from pytest_plan.engine.model.results import (
        CleanupError,
        PlanCancelledError,
        PlanResult,
        PlanTimeoutError,
        StepError,
        StepResult,
        StepTimeoutError,
    )
    from pytest_plan.engine.model.secret import Secret
    from pytest_plan.engine.plan import Plan
    from pytest_plan.engine.shared.state import State
    from pytest_plan.plugin.items.handle import PlanHandle

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
    "engine.calls.context": ("Context",),
    "engine.model.errors": ("PlanDefinitionError", "PlanError", "StateError"),
    "engine.model.outcomes": ("CleanupOutcome", "StepOutcome"),
    "engine.plan": ("Plan",),
    "engine.model.results": (
        "CleanupError",
        "PlanCancelledError",
        "PlanResult",
        "PlanTimeoutError",
        "StepError",
        "StepResult",
        "StepTimeoutError",
    ),
    "engine.model.secret": ("Secret",),
    "engine.shared.state": ("State",),
    "engine.definition.step": ("GenericStep", "Step"),
    "plugin.items.handle": ("PlanHandle",),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        return import_module("importlib.metadata").version("pytest-plan")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
