"""Step names: which are valid, which step a name means, and suggestions for an unknown name.

A step has an *own name*, which is an identifier, and a *full name*, which begins with the folder of
its declaration: `db` and `services/a/db`. Steps of sibling folders can have the same own name. The
name of a step *in a run* is unique: its own name, or its full name if the own name is not unique.

A step that is provisioned once per worker, or that has parameters, has *instances*. Their names
begin with the name of the step, their template: `database@gw0`, `postgres[16]`.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

from pytest_plan.engine.model.errors import PlanDefinitionError, StateError

_INSTANCE = re.compile(r"[\[@]")


def check_name(name: object, origin: str) -> str:
    """Return `name` if it is a valid step name.

    A step name must be an identifier, because hooks and fixtures use it as a parameter name.

    Args:
        name: the name to check.
        origin: `file:line` of the declaration, for the error message.

    Raises:
        PlanDefinitionError: `name` is not an identifier, or is a Python keyword.
    """
    if isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name):
        return name
    raise PlanDefinitionError(
        f"{origin}: invalid step name {name!r}; use a Python identifier, "
        "because hooks and tests take the step's value as a parameter of that name"
    )


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the closest of `known`, or "" if none is close.

    For a name without a folder, the own names of `known` are compared.
    """
    import difflib  # imported late to keep the startup of xdist workers fast

    compared: dict[str, list[str]] = {}
    for one in known:
        compared.setdefault(one if "/" in name else own_name(one), []).append(one)
    near = [one for own in difflib.get_close_matches(name, compared, n=3) for one in compared[own]]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def unknown_step(name: str, steps: Iterable[str]) -> str:
    """Return the error message for an unknown step name, with suggestions and all step names."""
    names = ", ".join(steps)
    known = f"known steps: {names}" if names else "no steps are declared"
    return f"unknown step {name!r}{suggest(name, steps)} ({known})"


def own_name(name: str) -> str:
    """Return the own name of a step: its name or full name without the folder."""
    return name.rpartition("/")[2]


def full_name(folder: str, name: str) -> str:
    """Return the full name of a step, from the folder in it ("" if there is none) and its name."""
    if not folder or name.startswith(f"{folder}/"):
        return name
    return f"{folder}/{name}"


def instance_name(template: str, ids: Sequence[str], worker: str | None) -> str:
    """Return the name of an instance: `database@gw0`, `postgres[16]`, `app[16,redis]@gw0`.

    Args:
        template: the name of the step.
        ids: the ids of its parameters.
        worker: the worker that the instance is for; None means that it is for all.
    """
    name = f"{template}[{','.join(ids)}]" if ids else template
    return name if worker is None else f"{name}@{worker}"


def template_of(name: str, folder: str = "") -> str:
    """Return the name of the step of which an instance has this name.

    Args:
        name: the name of a step or of an instance.
        folder: the folder in its full name; "" if there is none.
    """
    start = len(folder) + 1 if folder and name.startswith(f"{folder}/") else 0
    return name[:start] + _INSTANCE.split(name[start:], maxsplit=1)[0]


def without_worker(text: str, names: Collection[str], worker: str) -> str:
    """Return a text in which the names of the instances for a worker lack the worker.

    Args:
        text: the text.
        names: the names of the steps.
        worker: the worker.
    """
    end = f"@{worker}"
    if end not in text:
        return text
    alternatives = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    pattern = rf"(?<![\w/])((?:{alternatives})(?:\[[^\n]*?\])?){re.escape(end)}(?!\w)"
    return re.sub(pattern, r"\1", text)


def worker_of(name: str) -> str | None:
    """Return the worker in the name of an instance; None if there is none."""
    _, at, worker = name.rpartition("@")
    return worker if at and not {"]", "/"} & set(worker) else None


class Named(Protocol):
    """The names of a step, and where it is declared; see `PlannedStep`."""

    @property
    def name(self) -> str:
        """The name in the run."""

    @property
    def full_name(self) -> str:
        """The full name."""

    @property
    def scope(self) -> tuple[str, ...]:
        """The parts of the path of the folder from which the step is visible."""


class Names(Protocol):
    """Translates the names that some code uses to the names of steps in the run, and back."""

    def key(self, name: str) -> str:
        """Return the key of the State that `name` means."""

    def shown(self, key: str) -> str:
        """Return the name by which a key of the State is shown."""

    def why_missing(self, name: str) -> str | None:
        """Return why the State cannot have a value for `name` yet; None if no reason is known."""


class VisibleNames:
    """What names mean in one folder.

    A name means the visible step with this own name, or else the step with this full name, or else
    the only step with this own name.

    Args:
        steps: all steps, by their names in the run.
        scope: the parts of the path of the folder; None means that no step is visible.
    """

    def __init__(self, steps: Mapping[str, Named], scope: tuple[str, ...] | None) -> None:
        self._all = steps
        self._scope = scope

    @property
    def all(self) -> Collection[str]:
        """The names of all steps in the run."""
        return self._all.keys()

    def find(self, name: str) -> str | None:
        """Return the name in the run of the step that `name` means; None if there is no such step.

        Raises:
            PlanDefinitionError: several steps have this own name, and none of them is visible.
        """
        found = self._meanings.get(name)
        if found == "":
            raise PlanDefinitionError(self._ambiguity(name))
        return found

    def key(self, name: str) -> str:
        """Return the key of the State that `name` means: that of a step's value, or `name` itself.

        Raises:
            StateError: several steps have this own name, and none of them is visible.
        """
        found = self._meanings.get(name, name)
        if found == "":
            raise StateError(self._ambiguity(name))
        return found

    def shown(self, key: str) -> str:
        """Return the name that means the step called `key` in the run, or else `key` itself.

        It is the own name if the step is visible.
        """
        step = self._all.get(key)
        if step is None:
            return key
        own = own_name(key)
        return own if self._meanings[own] == key else step.full_name

    def why_missing(self, name: str) -> str | None:
        """Return None: steps use the values only of steps that have ended before."""
        return None

    @cached_property
    def _meanings(self) -> Mapping[str, str]:
        """The name in the run that each name means; "" if it could mean several."""
        own: dict[str, str] = {}
        full: dict[str, str] = {}
        visible: dict[str, str] = {}
        for step in self._all.values():
            name = own_name(step.name)
            own[name] = "" if name in own else step.name
            full[step.full_name] = step.name
            if self._scope is not None and step.scope == self._scope[: len(step.scope)]:
                visible[name] = step.name
        return {**own, **full, **visible}

    def _ambiguity(self, name: str) -> str:
        steps = (step for step in self._all.values() if own_name(step.name) == name)
        full = ", ".join(step.full_name for step in steps)
        return f"several steps are called {name!r}; use the full name of one: {full}"


class StepNames:
    """What names mean in each folder.

    Args:
        steps: all steps, by their names in the run.

    Attributes:
        all: the names of all steps in the run.
    """

    def __init__(self, steps: Mapping[str, Named]) -> None:
        self._steps = steps
        self.all: Collection[str] = steps.keys()
        self._are_own = "/" not in "".join(steps)
        self._seen: dict[tuple[str, ...] | None, VisibleNames] = {}

    def find(self, name: str, scope: tuple[str, ...] | None) -> str | None:
        """Return the name in the run of the step that `name` means in a folder, or None.

        Raises:
            PlanDefinitionError: several steps have this own name, and none of them is visible.
        """
        if self._are_own and name in self._steps:
            return name  # the usual case: every own name is unique
        return self.seen_from(scope).find(name)

    def seen_from(self, scope: tuple[str, ...] | None) -> VisibleNames:
        """Return what names mean in a folder; None means a place from which no step is visible."""
        if scope not in self._seen:
            self._seen[scope] = VisibleNames(self._steps, scope)
        return self._seen[scope]
