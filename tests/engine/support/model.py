"""What must hold of every run: the rules once more, short, and without the engine.

Times are whole ticks, but for the moment of a stop: so nothing happens at the same time as a
stop. A history has one entry when a call begins and one when it ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

EXEC_HOOKS = ("pre_exec", "exec", "post_exec")
TIMEOUT, RETRY_WAIT, UNDO = 9, 2, 1  # ticks; an attempt in which nothing hangs takes less
REASONS = {"failed": "failure", "succeeded": "success", "timed_out": "timeout"}
ERRORS = {"cancelled": "PlanCancelledError", "timed_out": "PlanTimeoutError"}
Call = tuple[Any, ...]  # (hook, attempt), (hook, attempt, number of its undo), ("cleanup", reason)


class Entry(NamedTuple):
    """The beginning or the end of a call of a step."""

    step: str
    call: Call
    time: float


@dataclass(frozen=True)
class ModelStep:
    """A step: its hooks with their ticks, what fails in which attempt, and what is deferred."""

    name: str
    needs: tuple[str, ...] | None
    hooks: Mapping[str, int]
    repeats: bool  # whether an attempt repeats hooks that succeeded
    retries: int
    faults: Mapping[tuple[str, int], str]  # (hook, attempt): "error", "crash" or "hang"
    defers: Mapping[str, int]
    broken: frozenset[str]  # what fails to undo: a hook's deferred calls, "tail", "cleanup"
    cleanup_when: str
    form: str = "plain"  # of `exec`: also "coroutine", "generator", "async generator"
    taken: tuple[str, ...] = ()  # the needs that `exec` takes as parameters

    def fails(self, call: Call) -> bool:
        """Return whether an undo or the cleanup hook raises."""
        return ("tail" if call[-1] == "tail" else call[0]) in self.broken


@dataclass(frozen=True)
class ModelPlan:
    """A plan; `stop` is the outcome of steps that are stopped: `cancelled` or `timed_out`."""

    steps: Sequence[ModelStep]
    jobs: int
    continue_on_error: bool
    stop: str = ""
    stop_at: float = math.inf

    def edges(self, step: ModelStep) -> Sequence[str]:
        """Return the steps that must have ended before `step` begins."""
        before = [other.name for other in self.steps[: self.steps.index(step)]]
        return before if step.needs is None else step.needs


@dataclass
class Life:
    """What a step does once it begins: its calls, its undos, and how and when it ends."""

    outcome: str
    end: float
    calls: list[Call] = field(default_factory=list)
    undos: list[Call] = field(default_factory=list)


def live(plan: ModelPlan, step: ModelStep, start: float) -> Life:
    """Return the life of a step that begins at `start`."""
    life, kept = Life("succeeded", start), set[str]()
    for attempt in range(1, 2 + step.retries):
        until, fault = life.end + TIMEOUT, None
        for hook in [hook for hook in EXEC_HOOKS if hook in step.hooks and hook not in kept]:
            life.calls.append((hook, attempt))
            life.undos += [(hook, attempt, n) for n in range(step.defers.get(hook, 0))]
            fault = step.faults.get((hook, attempt))
            life.end = until if fault == "hang" else life.end + step.hooks[hook]
            if life.end > plan.stop_at:
                life.outcome, life.end = plan.stop, plan.stop_at
                return life
            if fault is not None:
                break
            life.undos += [(hook, attempt, "tail")] * (hook == "exec" and "generator" in step.form)
            kept |= set[str]() if step.repeats else {hook}
        life.outcome = {None: "succeeded", "hang": "timed_out"}.get(fault, "failed")
        if fault in (None, "crash") or attempt > step.retries:
            break
        again = [undo for undo in reversed(life.undos) if undo[0] not in kept]
        life.calls += again
        life.undos = [undo for undo in life.undos if undo not in again]
        life.end += UNDO * len(again)
        if any(step.fails(undo) for undo in again):
            break
        if life.end + RETRY_WAIT > plan.stop_at:
            life.outcome, life.end = plan.stop, max(life.end, plan.stop_at)
            break
        life.end += RETRY_WAIT
    return life


def one_by_one(plan: ModelPlan) -> tuple[dict[str, float], dict[str, str]]:
    """Return when each step begins and how it ends if only one may run at a time."""
    now, starts, outcomes, waiting = 0.0, dict[str, float](), dict[str, str](), list(plan.steps)
    while waiting:
        step = next(step for step in waiting if set(plan.edges(step)) <= outcomes.keys())
        waiting.remove(step)
        if now >= plan.stop_at:
            outcomes[step.name] = plan.stop
        elif is_blocked(plan, step, outcomes):
            outcomes[step.name] = "blocked"
        else:
            life = live(plan, step, now)
            starts[step.name], now, outcomes[step.name] = now, life.end, life.outcome
    return starts, outcomes


def is_blocked(plan: ModelPlan, step: ModelStep, outcomes: Mapping[str, str]) -> bool:
    """Return whether failures keep `step` from beginning."""
    if not plan.continue_on_error and {"failed", "timed_out"} & {*outcomes.values()}:
        return True
    return any(outcomes[need] != "succeeded" for need in step.needs or ())


def check(
    plan: ModelPlan, history: Sequence[Entry], outcomes: Mapping[str, str], error: str | None
) -> None:
    """Raise AssertionError unless the run kept every rule; `error` names the error of the run."""
    at: dict[str, list[int]] = {step.name: [] for step in plan.steps}
    for index, entry in enumerate(history):
        at[entry.step].append(index)
    starts = {name: history[found[0]].time for name, found in at.items() if found}
    lives = {one.name: live(plan, one, starts[one.name]) for one in plan.steps if at[one.name]}
    stopped = any(life.end >= plan.stop_at for life in lives.values())
    failed_at = [life.end for life in lives.values() if life.outcome in ("failed", "timed_out")]
    end = plan.stop if stopped else "failed" if failed_at else "succeeded"
    forward, cleaned = dict[str, tuple[int, int]](), dict[str, tuple[int, int]]()
    for step in plan.steps:
        name, mine = step.name, at[step.name]
        if name not in lives:
            excuses = {"blocked"} if is_blocked(plan, step, outcomes) else set[str]()
            assert outcomes[name] in (excuses | {plan.stop} if stopped else excuses)
            continue
        life = lives[name]
        assert starts[name] < plan.stop_at
        assert starts[name] <= min(failed_at, default=math.inf) or plan.continue_on_error
        assert all(outcomes[need] == "succeeded" for need in step.needs or ())
        is_due = life.outcome == "succeeded" or step.cleanup_when == "attempted"
        cleanup = [("cleanup", REASONS.get(end, end))] * (is_due and "cleanup" in step.hooks)
        calls = [*life.calls, *cleanup, *reversed(life.undos)]
        assert [history[index].call for index in mine] == [call for call in calls for _ in "<>"]
        assert outcomes[name] == life.outcome
        middle = 2 * len(life.calls)
        forward[name] = mine[0], mine[middle - 1]
        if mine[middle:]:
            cleaned[name] = mine[middle], mine[-1]
    _check_order(plan, forward, cleaned)
    begun = min((history[first].time for first, _ in cleaned.values()), default=None)
    assert begun in (None, max((life.end for life in lives.values()), default=None))
    cleanup_fails = any(
        step.fails(history[index].call)
        for step in plan.steps
        if step.name in cleaned
        for index in at[step.name][2 * len(lives[step.name].calls) :]
    )
    kinds = {
        "CleanupError": cleanup_fails,
        "StepError": failed_at and not plan.continue_on_error,
        ERRORS.get(end): stopped,
    }
    assert error == next((kind for kind in reversed(kinds) if kinds[kind]), None)
    if plan.jobs == 1:
        assert (starts, outcomes) == one_by_one(plan)


def _check_order(
    plan: ModelPlan,
    forward: Mapping[str, tuple[int, int]],
    cleaned: Mapping[str, tuple[int, int]],
) -> None:
    """Check the order of the steps in the forward and in the reverse phase."""
    for step in plan.steps:
        for edge in plan.edges(step):
            if edge in forward and step.name in forward:
                assert forward[edge][1] < forward[step.name][0]
            if edge in cleaned and step.name in cleaned:
                assert cleaned[step.name][1] < cleaned[edge][0]
    for spans in (forward.values(), cleaned.values()):
        for begin, _ in spans:
            assert sum(one <= begin <= other for one, other in spans) <= plan.jobs
    assert all(end < begin for _, end in forward.values() for begin, _ in cleaned.values())
    if plan.jobs == 1:
        last_first = sorted(cleaned, key=lambda name: -forward[name][1])
        assert sorted(cleaned, key=lambda name: cleaned[name]) == last_first
