"""Staged test environments: a plan of steps that run once and are cleaned up in reverse order.

PYTEST_DONT_REWRITE (the package has no asserts that pytest should rewrite)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names of the table below, for type checkers
    from pytest_plan.engine.calls.context import Context as Context
    from pytest_plan.engine.calls.stopping.interrupt import StepInterrupted as StepInterrupted
    from pytest_plan.engine.definition.step import GenericStep as GenericStep
    from pytest_plan.engine.definition.step import Step as Step
    from pytest_plan.engine.model.errors import JournalError as JournalError
    from pytest_plan.engine.model.errors import PlanDefinitionError as PlanDefinitionError
    from pytest_plan.engine.model.errors import PlanError as PlanError
    from pytest_plan.engine.model.errors import StateError as StateError
    from pytest_plan.engine.model.events import AttemptFailed as AttemptFailed
    from pytest_plan.engine.model.events import CleanupBegan as CleanupBegan
    from pytest_plan.engine.model.events import CleanupInterrupted as CleanupInterrupted
    from pytest_plan.engine.model.events import PlanFinished as PlanFinished
    from pytest_plan.engine.model.events import StepCleaned as StepCleaned
    from pytest_plan.engine.model.events import StepFinished as StepFinished
    from pytest_plan.engine.model.events import StepLost as StepLost
    from pytest_plan.engine.model.events import StepStarted as StepStarted
    from pytest_plan.engine.model.events import StopRequested as StopRequested
    from pytest_plan.engine.model.events import Waiting as Waiting
    from pytest_plan.engine.model.outcomes import CleanupOutcome as CleanupOutcome
    from pytest_plan.engine.model.outcomes import StepOutcome as StepOutcome
    from pytest_plan.engine.model.results import AttemptResult as AttemptResult
    from pytest_plan.engine.model.results import CleanupError as CleanupError
    from pytest_plan.engine.model.results import CleanupResult as CleanupResult
    from pytest_plan.engine.model.results import Loss as Loss
    from pytest_plan.engine.model.results import PlanCancelledError as PlanCancelledError
    from pytest_plan.engine.model.results import PlanResult as PlanResult
    from pytest_plan.engine.model.results import PlanTimeoutError as PlanTimeoutError
    from pytest_plan.engine.model.results import StepError as StepError
    from pytest_plan.engine.model.results import StepResult as StepResult
    from pytest_plan.engine.model.results import StepTimeoutError as StepTimeoutError
    from pytest_plan.engine.model.secret import Secret as Secret
    from pytest_plan.engine.plan import Plan as Plan
    from pytest_plan.engine.processes.process import Process as Process
    from pytest_plan.engine.shared.state import State as State
    from pytest_plan.plugin.declaring.decorator import plan_step as plan_step
    from pytest_plan.plugin.items.handle import PlanHandle as PlanHandle
    from pytest_plan.plugin.items.program import ProgramHandle as ProgramHandle
    from pytest_plan.plugin.main_thread.signals import Terminated as Terminated

# For `-p pytest_plan` if the package is importable but not installed.
pytest_plugins = ("pytest_plan.plugin",)

# The public names, by the module that defines them. A module is imported when one of its names is
# first used, so a run of pytest without steps does not import the engine, and the engine does not
# import pytest. There is no __dir__, because pytest would access, and so import, every name it
# lists.
_HOMES = {
    "engine.calls.context": "Context",
    "engine.calls.stopping.interrupt": "StepInterrupted",
    "engine.definition.step": "GenericStep Step",
    "engine.model.errors": "JournalError PlanDefinitionError PlanError StateError",
    "engine.model.events": (
        "AttemptFailed CleanupBegan CleanupInterrupted PlanFinished StepCleaned "
        "StepFinished StepLost StepStarted StopRequested Waiting"
    ),
    "engine.model.outcomes": "CleanupOutcome StepOutcome",
    "engine.model.results": (
        "AttemptResult CleanupError CleanupResult Loss PlanCancelledError PlanResult "
        "PlanTimeoutError StepError StepResult StepTimeoutError"
    ),
    "engine.model.secret": "Secret",
    "engine.plan": "Plan",
    "engine.processes.process": "Process",
    "engine.shared.state": "State",
    "plugin.declaring.decorator": "plan_step",
    "plugin.items.handle": "PlanHandle",
    "plugin.items.program": "ProgramHandle",
    "plugin.main_thread.signals": "Terminated",
}

__all__ = sorted(" ".join(_HOMES.values()).split())  # noqa: PLE0605 - built from the table


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        return import_module("importlib.metadata").version("pytest-plan")
    for home, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
