"""Decides which steps of a kept environment this run reuses, like `make` for environments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from pytest_plan.engine.definition.graph import closure
from pytest_plan.engine.definition.names import full_name
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.environments.environment import Environment
from pytest_plan.engine.environments.fingerprint import Fingerprints
from pytest_plan.engine.environments.keeping import obstacles
from pytest_plan.engine.environments.lock import was_kept_elsewhere
from pytest_plan.engine.environments.recovery import gone_with, has_dead_program, programs_of
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.execution.run import revive
from pytest_plan.engine.journal.null import NullJournal
from pytest_plan.engine.journal.reader import Recorded, RecordedStep
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.plugin.declaring.declared import DeclaredSteps
from pytest_plan.plugin.main_thread.foreground import Foreground
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.environments.recovery import (
    Recovery,
    error_of,
    references_of,
    scratch_of,
)

_ELSEWHERE = "it was kept on another host or in another container, and has no alive hook"


class ReuseDecisions(NamedTuple):
    """Which recorded steps to reuse; each recorded step is in exactly one of the first two.

    Attributes:
        fresh: the steps to reuse, each with the evidence that it is up to date.
        stale: the steps to clean up, each with the reason.
        gone: the stale steps that are dead or were in a dead step, each with the dead step.
    """

    fresh: Mapping[str, str]
    stale: Mapping[str, str]
    gone: Mapping[str, str]


def decide(
    declared: DeclaredSteps,
    foreground: Foreground,
    recorded: Recorded,
    steps: Mapping[str, PlannedStep],
    prints: Fingerprints,
) -> ReuseDecisions:
    """Decide which recorded steps still match what the plan would provision.

    Args:
        declared: the steps of this process.
        foreground: the main thread, which waits for the `alive` hooks.
        recorded: the contents of the journal.
        steps: the declared steps, with their edges.
        prints: the fingerprints of the declared steps.
    """
    dead, checked = _dead(declared, foreground, recorded, steps)
    gone = gone_with(recorded, dead)
    if not declared.settings.reuse:
        text = "this run does not reuse (--plan-reuse)"
        return ReuseDecisions({}, dict.fromkeys(recorded.steps, text), gone)
    cannot = obstacles(recorded)
    stale = {}
    for name, step in recorded.steps.items():
        reason = _changed(step, steps, prints) or cannot.get(name) or dead.get(name)
        if reason is not None:
            stale[name] = reason
    unused = {
        name
        for name, step in recorded.steps.items()
        if name not in steps and _is_unused(step, steps)
    }
    stale.update(_dependents(recorded, stale, unused))
    _rebuild_what_was_changed(declared, recorded, steps, stale, unused)
    fresh = {
        name: f"unchanged, {_evidence(recorded.steps[name], steps[name], checked)}"
        for name in recorded.steps
        if name not in stale
    }
    return ReuseDecisions(fresh, stale, gone)


def clean_stale(
    recovery: Recovery,
    environment: Environment,
    recorded: Recorded,
    decisions: ReuseDecisions,
    steps: Mapping[str, PlannedStep],
) -> None:
    """Clean up the steps that are not reused, and report why each one is not."""
    for name, reason in decisions.stale.items():
        what = "is rebuilt" if name in steps else "is cleaned up"
        recovery.say(f"{name} {what}: {reason}")
    names = []
    for step in (recorded.steps[name] for name in decisions.stale):
        if not step.is_exhausted:
            names.append(step.name)
        elif step.name in decisions.gone:
            where = decisions.gone[step.name]
            recovery.say(
                f"  {step.name}  gone with {where!r}; its cleanup failed: {error_of(step)}"
            )
    if names:
        recovery.clean_up_steps(environment, recorded, names, decisions.gone)


def _changed(
    step: RecordedStep, steps: Mapping[str, PlannedStep], prints: Fingerprints
) -> str | None:
    if step.name not in steps and _is_unused(step, steps):
        if step.worker is not None and not _has_worker(step.worker, steps):
            return f"this run has no worker {step.worker!r}"
        return "its parameter is no longer declared"
    if step.name not in steps or steps[step.name].full_name != step.full_name:
        names = (one.name for one in steps.values() if one.full_name == step.full_name)
        new = next(names, None)
        return "it is no longer declared" if new is None else f"it is called {new!r} in this run"
    if step.cleanup not in ("none", "kept"):
        return "it was not kept" if step.cleanup == "succeeded" else "its cleanup had begun"
    return prints.change(step.name, step.fingerprint)


def _dead(
    declared: DeclaredSteps,
    foreground: Foreground,
    recorded: Recorded,
    steps: Mapping[str, PlannedStep],
) -> tuple[dict[str, str], set[str]]:
    """Return the steps that are dead, each with the reason, and those whose resources work."""
    dead = {}
    asked, checked = [], set()
    restorer = Restorer(recorded, recorded.steps, steps, references_of(declared.config))
    scratch = scratch_of(recorded)
    has_lost_folder = scratch is None and "scratch" in recorded.facts
    is_elsewhere = was_kept_elsewhere(recorded)
    for name, step in recorded.steps.items():
        if step.cleanup not in ("none", "kept") or step.outcome not in ("succeeded", "reused"):
            if is_elsewhere:
                dead[name] = _ELSEWHERE
            continue
        if name in steps and Hook.ALIVE in steps[name].hooks:
            asked.append(name)
        elif is_elsewhere:
            dead[name] = _ELSEWHERE
        elif has_dead_program(step):
            dead[name] = "its process ended"
        elif has_lost_folder:
            dead[name] = "the temporary folder of its run is gone"
        elif failure := restorer.failure(name):
            dead[name] = failure
        elif failure is not None:
            checked.add(name)
    if asked:
        options = launch.options_of(recorded, declared.definition.options)
        run = revive(
            restorer, options, NullJournal(), clock=SystemClock(), listeners=[], scratch=scratch
        )
        with foreground.owned(run):
            dead.update(run.dead(asked))
        run.detach()
    return dead, checked


def _is_unused(step: RecordedStep, steps: Mapping[str, PlannedStep]) -> bool:
    """Return whether a step is still declared, without this instance."""
    full = full_name(step.folder, step.template)
    known = (full_name(one.folder, one.template) for one in steps.values() if one.instance)
    return step.name != step.template and full in known


def _has_worker(worker: str, steps: Mapping[str, PlannedStep]) -> bool:
    return any(step.worker == worker for step in steps.values())


def _dependents(
    recorded: Recorded, stale: Mapping[str, str], unused: Collection[str]
) -> dict[str, str]:
    """Return the steps that need or follow a stale step; they must be cleaned up before it.

    What follows an instance that this run does not use can stay: it does not need it.
    """
    found: dict[str, str] = {}
    known = {*stale, *recorded.forgotten}
    is_growing = True
    while is_growing:
        is_growing = False
        for name, step in recorded.steps.items():
            after = (edge for edge in step.after if edge not in unused)
            edges = [edge for edge in (*step.needs, *after) if edge in known]
            if name not in known and edges:
                word = "needs" if edges[0] in step.needs else "follows"
                found[name] = f"it {word} {edges[0]!r}"
                known.add(name)
                is_growing = True
    return found


def _rebuild_what_was_changed(
    declared: DeclaredSteps,
    recorded: Recorded,
    steps: Mapping[str, PlannedStep],
    stale: dict[str, str],
    unused: Collection[str],
) -> None:
    """Add the steps that a step after tests has changed, if tests need them as they were.

    They are needed as they were by tests that come before that step, and by the step itself if it
    is not reused.
    """
    is_waiting = {name: step.options.after_tests for name, step in steps.items()}
    waiting = [name for name in recorded.steps if is_waiting.get(name)]
    ranks = declared.selection.ranks
    for name in sorted(waiting, key=lambda name: -ranks.get(name, 0)):
        if name in stale:
            reason = f"{name!r}, which is rebuilt, has changed it"
        elif declared.selection.uses_before(name, steps):
            reason = f"{name!r} has changed it, and selected tests run before {name!r}"
            stale[name] = "selected tests run before it"
        else:
            continue
        for changed in closure([name], steps):
            if changed in recorded.steps:
                stale.setdefault(changed, reason)
        stale.update(_dependents(recorded, stale, unused))


def _evidence(step: RecordedStep, planned: PlannedStep, checked: Collection[str]) -> str:
    if Hook.ALIVE in planned.hooks:
        return "alive"
    if programs_of(step):
        return "its processes are running"
    return "alive" if step.name in checked else "unchecked"
