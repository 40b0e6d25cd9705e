"""Decides which steps of a kept environment this run reuses, like `make` for environments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.environments.environment import Environment
from pytest_plan.engine.environments.fingerprint import Fingerprints
from pytest_plan.engine.environments.keeping import obstacles
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.execution.run import revive
from pytest_plan.engine.journal.null import NullJournal
from pytest_plan.engine.journal.reader import Recorded, RecordedStep
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.processes.orphan import orphan_tree
from pytest_plan.plugin.declaring.declared import DeclaredSteps
from pytest_plan.plugin.main_thread.foreground import Foreground
from pytest_plan.plugin.run.recovery import Recovery, references_of


class ReuseDecisions(NamedTuple):
    """Which recorded steps to reuse; each recorded step is in exactly one of the two mappings.

    Attributes:
        fresh: the steps to reuse, each with the evidence that it is up to date.
        stale: the steps to clean up, each with the reason.
    """

    fresh: Mapping[str, str]
    stale: Mapping[str, str]


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
    cannot = obstacles(recorded)
    stale = {}
    for name, step in recorded.steps.items():
        reason = _changed(step, steps, prints) or cannot.get(name)
        if reason is not None:
            stale[name] = reason
    candidates = [name for name in recorded.steps if name not in stale]
    stale.update(_dead(declared, foreground, recorded, candidates, steps))
    stale.update(_dependents(recorded, stale))
    fresh = {
        name: f"unchanged, {_evidence(recorded.steps[name], steps[name])}"
        for name in recorded.steps
        if name not in stale
    }
    return ReuseDecisions(fresh, stale)


def clean_stale(
    recovery: Recovery, environment: Environment, recorded: Recorded, stale: Mapping[str, str]
) -> None:
    """Clean up the steps that are not reused, and report why each one is not."""
    for name, reason in stale.items():
        recovery.say(f"{name} is rebuilt: {reason}")
    recovery.clean_up_steps(environment, recorded, stale)


def _changed(
    step: RecordedStep, steps: Mapping[str, PlannedStep], prints: Fingerprints
) -> str | None:
    if step.name not in steps or steps[step.name].full_name != step.full_name:
        names = (one.name for one in steps.values() if one.full_name == step.full_name)
        new = next(names, None)
        return "it is no longer declared" if new is None else f"it is called {new!r} in this run"
    if step.cleanup not in ("none", "kept"):
        return "its cleanup had begun"
    if not prints.fits(step.name, step.fingerprint):
        return "its code, its options or its inputs have changed"
    return None


def _dead(
    declared: DeclaredSteps,
    foreground: Foreground,
    recorded: Recorded,
    names: Iterable[str],
    steps: Mapping[str, PlannedStep],
) -> dict[str, str]:
    dead = {}
    asked = []
    for name in names:
        if Hook.ALIVE in steps[name].hooks:
            asked.append(name)
        elif any(not orphan_tree(how).is_alive() for how in _trees(recorded.steps[name])):
            dead[name] = "one of its processes has exited"
    if asked:
        restorer = Restorer(recorded, recorded.steps, steps, references_of(declared.config))
        options = declared.definition.options
        run = revive(restorer, options, NullJournal(), clock=SystemClock(), listeners=[])
        with foreground.owned(run):
            dead.update(run.dead(asked))
        run.detach()
    return dead


def _dependents(recorded: Recorded, stale: Mapping[str, str]) -> dict[str, str]:
    """Return the steps that need or follow a stale step; they must be cleaned up before it."""
    found: dict[str, str] = {}
    known = set(stale)
    is_growing = True
    while is_growing:
        is_growing = False
        for name, step in recorded.steps.items():
            edges = [edge for edge in (*step.needs, *step.after) if edge in known]
            if name not in known and edges:
                word = "needs" if edges[0] in step.needs else "follows"
                found[name] = f"it {word} {edges[0]!r}"
                known.add(name)
                is_growing = True
    return found


def _evidence(step: RecordedStep, planned: PlannedStep) -> str:
    if Hook.ALIVE in planned.hooks:
        return "alive"
    return "its processes are running" if any(_trees(step)) else "unchecked"


def _trees(step: RecordedStep) -> list[dict[str, Any]]:
    """Return the trees of a step whose first process must keep running."""
    trees = [json.loads(undo.data) for undo in step.undos if undo.kind == "tree"]
    return [how for how in trees if "pid" in how and how.get("watch", True)]
