"""The instances of steps: one for each worker, for each parameter, or for each product of them.

A step has instances if its option `per` is `worker`, if it has parameters, or if a step that it
needs has parameters. `expand` is the only place that makes instances of steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from pytest_plan.engine.definition.names import Names, instance_name
from pytest_plan.engine.definition.options import Parameter
from pytest_plan.engine.definition.planned import Instance, PlannedStep
from pytest_plan.engine.model.errors import PlanDefinitionError

SOLO = "master"  # the worker of a run without workers, as pytest-xdist calls it

# Names of instances, by the name of the step.
Groups: TypeAlias = Mapping[str, Mapping[str, Instance]]
NameParameters: TypeAlias = Callable[[str, Sequence[Any], Any], tuple[Parameter, ...]]


def expand(steps: Mapping[str, PlannedStep], workers: Sequence[str]) -> dict[str, PlannedStep]:
    """Return the linked steps, with the instances of each step in its place.

    An instance needs the instances for the same worker and the same parameters. It is ordered
    after all instances of a step that its step is ordered after.

    Args:
        steps: the linked steps by name, in the order of the plan.
        workers: the workers of the run.

    Raises:
        PlanDefinitionError: a step that is provisioned once per run needs one that is provisioned
            once per worker.
    """
    _check_needs(steps)
    with_parameters = _with_parameters(steps)
    groups = {
        name: dict(_instances(name, steps, with_parameters[name], workers))
        for name in steps
        if with_parameters[name] or steps[name].options.per == "worker"
    }
    expanded: dict[str, PlannedStep] = {}
    for name, step in steps.items():
        after = tuple(one for edge in step.after for one in groups.get(edge, (edge,)))
        for own, instance in groups.get(name, {name: None}).items():
            names = InstanceNames(groups, instance, step.names)
            needs = tuple(names.key(need) if need in groups else need for need in step.needs)
            expanded[own] = step._replace(
                name=own, needs=needs, after=after, names=names, instance=instance
            )
    return expanded


def groups_of(steps: Mapping[str, PlannedStep]) -> dict[str, dict[str, Instance]]:
    """Return the instances among these steps, by the name of the step and their own names."""
    groups: dict[str, dict[str, Instance]] = {}
    for name, step in steps.items():
        if step.instance is not None:
            groups.setdefault(step.instance.template, {})[name] = step.instance
    return groups


class InstanceNames:
    """What the names of steps mean to code that belongs to a worker and to chosen parameters.

    Args:
        groups: all instances.
        instance: the instance whose code it is; None for a step without instances.
        names: what names mean in the folder of the code; None means that every name is as it is.
    """

    def __init__(self, groups: Groups, instance: Instance | None, names: Names | None) -> None:
        self._groups = groups
        self._instance = instance or Instance("", None, {})
        self._names = names

    def key(self, name: str) -> str:
        """Return the key of the State that `name` means.

        Raises:
            KeyError: the step has several instances, and the code can mean more than one of them.
        """
        step = name if self._names is None else self._names.key(name)
        instances = self._groups.get(step)
        if instances is None:
            return step
        found = self.meant(step)
        if len(found) != 1:
            raise KeyError(
                f"step {name!r} has several instances; use the name of one: "
                f"{', '.join(found or instances)}"
            )
        return found[0]

    def meant(self, step: str) -> list[str]:
        """Return the instances of a step that the code can mean."""
        choice, worker = self._instance.choice, self._instance.worker
        return [
            name for name, instance in self._groups[step].items() if instance.agrees(choice, worker)
        ]

    def shown(self, key: str) -> str:
        """Return the name that means the step called `key` in the run, or else `key` itself."""
        for step in self._groups:
            if key in self._groups[step] and self.meant(step) == [key]:
                return step if self._names is None else self._names.shown(step)
        return key if self._names is None else self._names.shown(key)

    def why_missing(self, name: str) -> str | None:
        """Return why the State cannot have a value for `name` yet; None if no reason is known."""
        return None if self._names is None else self._names.why_missing(name)


def plain_parameters(name: str, params: Sequence[Any], ids: Any) -> tuple[Parameter, ...]:
    """Give the parameters of a step their ids in a plan without pytest.

    The id of a text, a number, a truth value or None is the value itself; of any other value, it
    is the name of the step with the position.

    Raises:
        ValueError: two parameters have the same id.
    """
    given = map(ids, params) if callable(ids) else ids or itertools.repeat(None)
    texts = [
        _text(param if chosen is None else chosen) or f"{name}{position}"
        for position, (param, chosen) in enumerate(zip(params, given, strict=False))
    ]
    refuse_twins(texts)
    return tuple(Parameter(one, one, text) for one, text in zip(params, texts, strict=True))


def refuse_twins(ids: Sequence[object]) -> None:
    """Raise ValueError if two parameters of a step have the same id."""
    for one in ids:
        if one is not None and ids.count(one) > 1:
            raise ValueError(f"two parameters have the id {one!r}; give each an id of its own")


def _text(value: object) -> str:
    if value is not None and not isinstance(value, (str, int, float)):
        return ""
    return str(value).encode("unicode_escape").decode("ascii")


def _check_needs(steps: Mapping[str, PlannedStep]) -> None:
    for step in steps.values():
        if step.options.per == "worker":
            continue
        for need in step.needs:
            if steps[need].options.per == "worker":
                raise PlanDefinitionError(
                    f"step {step.name!r} ({step.origin}) is provisioned once per run, but needs "
                    f"{need!r} ({steps[need].origin}), which is provisioned once per worker; give "
                    f"{step.name!r} the option per='worker', or let it need a step that all "
                    "workers share",
                    step=step.name,
                )


def _with_parameters(steps: Mapping[str, PlannedStep]) -> dict[str, tuple[str, ...]]:
    """Return, for each step, the steps with parameters that it needs or is; itself comes last."""
    found: dict[str, tuple[str, ...]] = {}
    order = {name: position for position, name in enumerate(steps)}

    def reached(name: str) -> tuple[str, ...]:
        if name not in found:
            step = steps[name]
            needed = {one for need in step.needs for one in reached(need)}
            own = (name,) if step.options.params is not None else ()
            found[name] = (*sorted(needed, key=order.__getitem__), *own)
        return found[name]

    for name in steps:
        reached(name)
    return found


def _instances(
    name: str,
    steps: Mapping[str, PlannedStep],
    with_parameters: Sequence[str],
    workers: Sequence[str],
) -> Iterator[tuple[str, Instance]]:
    """Yield the instances of a step with their names; those for one worker come first."""
    options = steps[name].options
    parameters = [steps[one].options.params or () for one in with_parameters]
    for worker in workers if options.per == "worker" else (None,):
        for positions in itertools.product(*(range(len(one)) for one in parameters)):
            chosen = [one[position] for one, position in zip(parameters, positions, strict=True)]
            choice = dict(zip(with_parameters, positions, strict=True))
            param = chosen[-1].value if options.params is not None else None
            own = instance_name(name, [one.id for one in chosen], worker)
            yield own, Instance(name, worker, choice, param)
