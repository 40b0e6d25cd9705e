"""Calls the hooks of `hookspecs.py` for the engine's events, and reports a hook that raises."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy
import pytest

import pytest_plan
from pytest_plan.engine.model.events import (
    CleanupBegan,
    Event,
    Listener,
    PlanFinished,
    StepCleaned,
    StepFinished,
    StepStarted,
)

if TYPE_CHECKING:
    from pytest_plan.plugin.items.handle import PlanHandle

# What user code may raise and pytest would report as an INTERNALERROR. Ctrl-C and `pytest.exit` end
# the session.
ERRORS = (Exception, SystemExit, pytest.fail.Exception, pytest.skip.Exception)
_CALLERS = tuple(Path(module.__file__ or "").parent for module in (pluggy, pytest_plan))


def hook_caller(config: pytest.Config, plan: PlanHandle) -> Listener:
    """Return a listener that calls the hook that belongs to each event, if there is one."""
    hook = config.hook

    def call_hook(event: Event) -> None:
        """Call the hook for an event; other events have none."""
        match event:
            case StepStarted(step=step):
                hook.pytest_plan_step_started(config=config, step=step)
            case StepFinished(result=result):
                hook.pytest_plan_step_finished(config=config, result=result)
            case CleanupBegan(steps=steps, reason=reason) if steps:
                hook.pytest_plan_cleanup(config=config, plan=plan, reason=reason)
            case StepCleaned(result=result):
                hook.pytest_plan_step_cleaned(config=config, result=result)
            case PlanFinished(result=result):
                hook.pytest_plan_finished(config=config, result=result)
            case _:
                pass

    return call_hook


def listeners(config: pytest.Config, plan: PlanHandle) -> list[Listener]:
    """Return the listeners to a run: those of plugins, then the one that calls hooks.

    Raises:
        pytest.UsageError: a plugin cannot make its listener.
    """
    try:
        made = config.hook.pytest_plan_make_listener(config=config)
    except ERRORS as error:
        raise refusal("pytest_plan_make_listener has raised an error", error) from None
    return [*made, hook_caller(config, plan)]


def refusal(what: str, error: BaseException) -> BaseException:
    """Return the error that ends the session because code of a conftest or plugin has raised.

    Args:
        what: what cannot be done, for the message.
        error: the error. A usage error and `pytest.exit` are returned unchanged.
    """
    if isinstance(error, (pytest.UsageError, pytest.exit.Exception)):
        return error
    return pytest.UsageError(f"{what}:\n{own_traceback(error)}")


def own_traceback(error: BaseException) -> str:
    """Return the traceback of an error in code of a conftest or plugin, without our frames."""
    found = pytest.ExceptionInfo.from_exception(error)
    return str(found.getrepr(style="short", tbfilter=_own_entries))


def _own_entries(found: pytest.ExceptionInfo[BaseException]) -> Any:
    """Return the traceback from the first frame that belongs neither to us nor to pluggy."""
    entries = found.traceback
    own = [
        number
        for number, entry in enumerate(entries)
        if not any(Path(entry.path).is_relative_to(folder) for folder in _CALLERS)
    ]
    return entries[own[0] :] if own else entries
