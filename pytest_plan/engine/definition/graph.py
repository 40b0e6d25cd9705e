"""The edges between steps: which step needs which, and which step is ordered after which.

A step with a *need* waits until the needed step has succeeded. A step with an *order edge* waits
until the other step has ended. A step without needs is ordered after all steps declared before it,
as in a plain list.
"""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from pytest_plan.engine.definition.names import StepNames, own_name, suggest, unknown_step
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.outcomes import WITH_VALUE, Hook

OWN_PARAMETERS = ("ctx", "state")
VALUE = "value"


def link(steps: Sequence[PlannedStep], parameters: Collection[str]) -> dict[str, PlannedStep]:
    """Return the steps by name, in the given order, with `needs` and `after` filled in.

    Args:
        steps: the steps in the order of their declaration.
        parameters: names of the parameters that the plan passes to hooks in addition to `ctx`
            and `state`.

    Raises:
        PlanDefinitionError: a need or parameter is unknown or ambiguous, the edges form a cycle,
            or it cannot be determined when a step with `after_tests` begins.
    """
    names = StepNames({step.name: step for step in steps})
    has_folders = any(step.folder for step in steps)
    linked: dict[str, PlannedStep] = {}
    frontiers: dict[tuple[str, ...], list[str]] = {}
    looks_ahead = False
    for step in steps:
        taken = _steps_taken(step, names, parameters)
        listed = _steps_listed(step, names) if step.options.needs else ()
        needs = tuple(dict.fromkeys((*listed, *taken)))
        in_list = step.options.needs is None and not taken
        after = _visible(frontiers, step.scope) if in_list else ()
        looks_ahead = looks_ahead or not linked.keys() >= {*needs, *after}
        seen = names.seen_from(step.scope) if has_folders else None
        linked[step.name] = step._replace(needs=needs, after=after, names=seen)
        if in_list:
            frontiers[step.scope] = [step.name]
        else:
            frontiers.setdefault(step.scope, []).append(step.name)
    if looks_ahead:  # if every edge leads to an earlier step, no cycle is possible
        _refuse_cycle(linked)
    _refuse_contradictions(linked)
    return linked


def ranks(steps: Mapping[str, PlannedStep]) -> dict[str, int]:
    """Return how many times tests come before each step, by name.

    That is the highest number of steps with `after_tests` on one path of edges to the step,
    including the step itself.
    """
    found = dict.fromkeys(steps, 0)
    if not _any_waits(steps):
        return found
    edges = {name: step.edges for name, step in steps.items()}
    for name in graphlib.TopologicalSorter(edges).static_order():
        before = max((found[edge] for edge in edges[name]), default=0)
        found[name] = before + steps[name].options.after_tests
    return found


def closure(
    names: Iterable[str], steps: Mapping[str, PlannedStep], *, needs_only: bool = False
) -> set[str]:
    """Return `names` and all steps that they depend on, directly or indirectly.

    Args:
        names: the names of the steps to begin with.
        steps: all steps by name.
        needs_only: whether only needs count, and not order edges.
    """
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(steps[name].needs if needs_only else steps[name].edges)
    return found


def longest_first(
    names: Sequence[str], steps: Mapping[str, PlannedStep], seconds: Callable[[str], float]
) -> list[str]:
    """Return `names` ordered by how long the plan takes from the beginning of each step to its end.

    Steps that are equal in this stay in the given order.

    Args:
        names: the names of the steps.
        steps: all steps by name.
        seconds: a function that returns the number of seconds that a step takes by itself.
    """
    edges = {name: [edge for edge in steps[name].edges if edge in names] for name in names}
    after = dict.fromkeys(names, 0.0)  # the time that the steps take that wait for a step
    for name in reversed([*graphlib.TopologicalSorter(edges).static_order()]):
        for edge in edges[name]:
            after[edge] = max(after[edge], after[name] + seconds(name))
    return sorted(names, key=lambda name: -after[name] - seconds(name))


def _visible(
    frontiers: Mapping[tuple[str, ...], list[str]], scope: tuple[str, ...]
) -> tuple[str, ...]:
    # Only the last steps of each list are needed, because they wait for all earlier ones.
    seen = (frontiers.get(scope[:length], ()) for length in range(len(scope) + 1))
    return tuple(name for frontier in seen for name in frontier)


def _steps_taken(step: PlannedStep, names: StepNames, parameters: Collection[str]) -> list[str]:
    taken = []
    for hook, function in step.hooks.items():
        own = {*OWN_PARAMETERS, *parameters, *([VALUE] if hook in WITH_VALUE else [])}
        for parameter in function.required:
            if parameter in own:
                continue
            found = _find(step, parameter, names)
            if found is None:
                raise _unknown_parameter(step, hook, parameter, own, names)
            taken.append(found)
    return taken


def _unknown_parameter(
    step: PlannedStep, hook: Hook, parameter: str, own: set[str], names: StepNames
) -> PlanDefinitionError:
    others = sorted({own_name(name) for name in names.all} - {own_name(step.name)})
    known = ", ".join((*sorted(own), *others))
    return PlanDefinitionError(
        f"step {step.name!r} ({step.origin}): {hook.value} has an unknown parameter {parameter!r}"
        f"{suggest(parameter, (*own, *others))} (available: {known})",
        step=step.name,
        parameter=parameter,
    )


def _steps_listed(step: PlannedStep, names: StepNames) -> Iterator[str]:
    for need in step.options.needs or ():
        found = _find(step, need, names)
        if found is None:
            known = sorted(names.all)
            raise PlanDefinitionError(
                f"step {step.name!r} ({step.origin}) needs an {unknown_step(need, known)}",
                step=step.name,
            )
        yield found


def _find(step: PlannedStep, name: str, names: StepNames) -> str | None:
    """Return the name in the run of the step that `name` means to a step; None if it is unknown."""
    try:
        return names.find(name, step.scope)
    except PlanDefinitionError as error:
        raise PlanDefinitionError(
            f"step {step.name!r} ({step.origin}) needs {name!r}: {error}", step=step.name
        ) from None


def _refuse_cycle(steps: Mapping[str, PlannedStep]) -> None:
    try:
        graphlib.TopologicalSorter({name: step.edges for name, step in steps.items()}).prepare()
    except graphlib.CycleError as error:
        # graphlib lists each step before the steps that wait for it.
        path: list[str] = error.args[1][::-1]
        raise PlanDefinitionError(
            f"dependency cycle: {_describe(path, steps)}; remove a need or move a step",
            step=path[0],
        ) from None


def _refuse_contradictions(steps: Mapping[str, PlannedStep]) -> None:
    """Refuse two steps that would begin after the same tests, and eager steps that wait for one.

    Two steps with `after_tests` have different ranks exactly if one waits for the other.
    """
    waiting: dict[int, PlannedStep] = {}
    for name, rank in ranks(steps).items() if _any_waits(steps) else ():
        step = steps[name]
        if step.options.eager and rank:
            raise PlanDefinitionError(
                f"step {name!r} ({step.origin}) is eager, but waits for a step that begins after "
                f"tests: {_waiting_before(step, steps)}; remove eager=True or that edge",
                step=name,
            )
        if not step.options.after_tests:
            continue
        other = waiting.setdefault(rank, step)
        if other is not step:
            raise PlanDefinitionError(
                f"steps {other.name!r} ({other.origin}) and {name!r} ({step.origin}) both have "
                "after_tests, and neither waits for the other: add one of them to the needs of "
                "the other",
                step=name,
            )


def _any_waits(steps: Mapping[str, PlannedStep]) -> bool:
    return any(step.options.after_tests for step in steps.values())


def _waiting_before(step: PlannedStep, steps: Mapping[str, PlannedStep]) -> str:
    before = closure([step.name], steps)
    return ", ".join(
        f"{name!r} ({one.origin})"
        for name, one in steps.items()
        if name in before and one.options.after_tests
    )


def _describe(path: Sequence[str], steps: Mapping[str, PlannedStep]) -> str:
    links = [
        f"{'needs' if after in steps[before].needs else 'is declared after'} {after!r}"
        for before, after in itertools.pairwise(path)
    ]
    origins = ", ".join(dict.fromkeys(steps[name].origin for name in path))
    return f"{path[0]!r} {', which '.join(links)} ({origins})"
