"""Finds the steps that a test needs, from its marks, its fixtures and the `autouse` options."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.definition.names import StepNames, unknown_step
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.plugin.compat.fixture_internals import fixture_info
from pytest_plan.plugin.compat.late_requests import LateRequests
from pytest_plan.plugin.declaring.marks import ALL_STEPS, EACH, NEEDS, STEP_OF_FIXTURE, mark_skips


class Needs:
    """Finds the steps that tests need, and computes facts that tests share only once.

    Args:
        steps: all steps by name.
        names: what names mean in each folder.
        autouse: whether every test needs every step that is visible to it.
    """

    def __init__(
        self, steps: Mapping[str, PlannedStep], names: StepNames, *, autouse: bool
    ) -> None:
        self._steps = steps
        self._names = names
        self._autouse = autouse
        self._visible: dict[Path, list[str]] = {}  # by the test's file
        self._taken: dict[int, tuple[set[str], bool]] = {}  # by the id of pytest's fixture info
        self._late = LateRequests()

    def of(self, item: pytest.Item) -> tuple[str, ...]:
        """Return the steps that a test needs, in the order of the plan; () if a mark skips it.

        Raises:
            pytest.UsageError: a mark names a step that does not exist, or several steps.
        """
        if not self._steps or _is_skipped(item):
            return ()  # without any step, the mark `plan` may be one of the project's own
        visible = self._visible_to(item)
        named, is_bare = _marked(item, self._names)
        taken, takes_plan = self._taken_by(item)
        wanted = named | taken | {name for name in visible if self._steps[name].options.autouse}
        if self._autouse or (not named and (is_bare or takes_plan)):
            wanted.update(visible)
        return tuple(name for name in self._steps if name in wanted)

    def explicit(self, item: pytest.Item) -> tuple[str, ...]:
        """Return the steps that a test needs even if it narrows a bare `plan` to them."""
        named, _ = _marked(item, self._names)
        taken, _ = self._taken_by(item)
        visible = self._visible_to(item)
        wanted = named | taken | {name for name in visible if self._steps[name].options.autouse}
        return tuple(name for name in self._steps if name in wanted)

    def _visible_to(self, item: pytest.Item) -> list[str]:
        """Return the steps declared in plugins, in the test's directory or in one above it."""
        visible = self._visible.get(item.path)
        if visible is None:
            parts = folder_of(item)
            visible = [
                name for name, step in self._steps.items() if parts[: len(step.scope)] == step.scope
            ]
            self._visible[item.path] = visible
        return visible

    def _taken_by(self, item: pytest.Item) -> tuple[set[str], bool]:
        """Return the steps whose fixtures the test uses, and whether it uses `plan`.

        A test also uses the fixtures that its fixtures request, and those that pytest-bdd and
        pytest-django will request while it runs.
        """
        info = fixture_info(item)
        if info is None:
            return set(), False
        # The tests of one parametrized function share this object and keep it alive.
        if id(info) not in self._taken:
            self._taken[id(info)] = self._reached(info.initialnames, info.name2fixturedefs)
        steps, takes_plan = self._taken[id(info)]
        for names, definitions in self._late.of(item):
            more, also = self._reached(names, definitions)
            steps, takes_plan = steps | more, takes_plan or also
        return steps, takes_plan

    def _reached(
        self, names: Iterable[str], definitions: Mapping[str, Sequence[Any]]
    ) -> tuple[set[str], bool]:
        steps, takes_plan = _reached(names, definitions)
        return {self._names.find(step, None) or step for step in steps}, takes_plan


def _is_skipped(item: pytest.Item) -> bool:
    names = getattr(getattr(item, "obj", None), "__globals__", {})
    for mark in item.iter_markers():
        try:
            if mark_skips(mark, names) is not None:
                return True
        except Exception:
            return False  # pytest reports the broken condition at setup
    return False


def folder_of(item: pytest.Item) -> tuple[str, ...]:
    """Return the folder of a test, as the parts of its path."""
    return item.path.parent.parts


def _marked(item: pytest.Item, names: StepNames) -> tuple[set[str], bool]:
    """Return the steps that the test's marks name, and whether any of the marks has no names."""
    named: set[str] = set()
    is_bare = False
    for mark in item.iter_markers(NEEDS):
        is_bare = is_bare or not mark.args
        named.update(_steps_of_mark(item, mark, names))
    return named, is_bare


def _steps_of_mark(item: pytest.Item, mark: pytest.Mark, names: StepNames) -> Iterator[str]:
    each = item.get_closest_marker(EACH)
    word = EACH if each is not None and mark.args[:1] in [(name,) for name in each.args] else NEEDS
    others = [mark.kwargs] if mark.kwargs else [arg for arg in mark.args if type(arg) is not str]
    if others:
        raise pytest.UsageError(
            f"{item.nodeid}: @pytest.mark.plan takes step names as arguments, "
            f"not {_shown(others[0])}"
        )
    for name in mark.args:
        try:
            found = names.find(name, folder_of(item))
        except PlanDefinitionError as error:
            raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.{word}: {error}") from None
        if found is None:
            raise pytest.UsageError(
                f"{item.nodeid}: @pytest.mark.{word} names an {unknown_step(name, names.all)}"
            )
        yield found


def _shown(value: object) -> str:
    """Return the repr of an object on one line and shortened, even if its own repr fails."""
    short = reprlib.Repr()
    short.maxother = short.maxstring = 60
    return " ".join(short.repr(value).split())


def _reached(
    names: Iterable[str], definitions: Mapping[str, Sequence[Any]]
) -> tuple[set[str], bool]:
    """Return the full names of the steps whose fixtures can be reached, and whether `plan` can.

    Each definition of a fixture is considered separately: if a fixture overrides a step's fixture
    and does not request it, the step is not reached.
    """
    steps: set[str] = set()
    waiting = [(name, -1) for name in names]
    seen: set[tuple[str, int]] = set()
    while waiting:
        name, index = waiting.pop()
        if (name, index) in seen or len(definitions.get(name, ())) < -index:
            continue
        seen.add((name, index))
        definition = definitions[name][index]
        step = getattr(definition.func, STEP_OF_FIXTURE, None)
        if step is not None:
            steps.add(step)
        waiting += [
            (argument, index - 1 if argument == name else -1) for argument in definition.argnames
        ]
    return steps - {ALL_STEPS}, ALL_STEPS in steps
