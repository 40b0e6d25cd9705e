"""Flows, and the effects that they request from the executor: calls and waits.

A flow is a generator that makes decisions and never blocks. It yields a `Call` and receives the
call's `Ending`, or it yields a `Wait` and receives None, or the `Stop` that ended the wait early.
It runs under the executor's lock and calls no user code, so you can read and test it as if there
were no threads. Work that waits for the disk or runs the user's code belongs in a `Call`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias

from pytest_plan.engine.calls.body import body_of
from pytest_plan.engine.calls.call import Call, CallScope
from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.calls.generator import hook_body
from pytest_plan.engine.definition.signature import HookFunction
from pytest_plan.engine.execution.step_run import StepRun
from pytest_plan.engine.model.outcomes import WITH_VALUE, Hook
from pytest_plan.engine.model.secret import reveal
from pytest_plan.engine.shared.run_facts import RunFacts
from pytest_plan.engine.shared.state import seen_through


class Wait(NamedTuple):
    """A wait of `seconds` seconds, which ends early if the plan stops running steps."""

    seconds: float


Effect: TypeAlias = Call | Wait
Flow: TypeAlias = Generator[Effect, Any, None]


def hook_call(
    step_run: StepRun,
    facts: RunFacts,
    hook: Hook,
    *,
    attempt: int = 1,
    deadline: float | None,
    expires: float | None,
    budget: str,
    reason: str | None = None,
) -> Call:
    """Return a call of a hook, with the arguments that the hook takes.

    Args:
        step_run: the step.
        facts: the facts about the run.
        hook: the hook.
        attempt: the number of the attempt, counted from 1.
        deadline: the `ctx.deadline` of the hook, on the plan's clock; None means no limit.
        expires: the time on the plan's clock at which the call must stop; None means never.
        budget: the name of that time limit in messages.
        reason: the `ctx.reason` of the hook; None except for `cleanup`.
    """
    scope = CallScope(step_run.name, hook, attempt, deadline, reason)
    function = step_run.planned.hooks[hook]
    arguments = _arguments(function, scope, step_run, facts)
    body = hook_body(step_run.name, function, arguments, facts.clock, step_run.loop)
    return Call(scope, body, step_run.log, expires, budget)


def own_call(
    step_run: StepRun, function: Callable[..., Any], *arguments: Any, shielded: bool = False
) -> Call:
    """Return a call that runs a function of the engine on the step's thread.

    Args:
        step_run: the step.
        function: a function that may wait for the disk, or run code from an option.
        arguments: its arguments.
        shielded: whether the call continues if the plan is stopped.
    """
    scope = CallScope(step_run.name, Hook.EXEC, len(step_run.attempts), None)
    return Call(scope, body_of(function, *arguments), step_run.log, shielded=shielded)


def _arguments(
    function: HookFunction, scope: CallScope, step_run: StepRun, facts: RunFacts
) -> dict[str, Any]:
    if not function.required:
        return {}
    context = Context(scope, facts, step_run.undo, step_run.log)
    context._instance = step_run.planned.instance
    if step_run.planned.names is not None:
        context.state = seen_through(context.state, step_run.planned.names)
    return {
        name: _argument(name, scope.hook, context, step_run, facts) for name in function.required
    }


def _argument(name: str, hook: Hook, context: Context, step_run: StepRun, facts: RunFacts) -> Any:
    if name == "ctx":
        return context
    if name == "state":
        return context.state
    if name in facts.parameters:
        return facts.parameters[name]
    if name == "value" and hook in WITH_VALUE:
        # The State has no value if the step failed after `exec` had returned one.
        return _stored(step_run.name, facts, step_run.value)
    names = step_run.planned.names
    return _stored(name if names is None else names.key(name), facts, None)


def _stored(key: str, facts: RunFacts, default: Any) -> Any:
    entry = facts.store.read(key)
    return reveal(default if entry is None else entry.value)
