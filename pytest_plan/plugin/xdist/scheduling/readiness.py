"""Finds the steps for which each test waits: tests that share fixtures wait together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from pytest_plan.plugin.compat.fixture_internals import fixture_info
from pytest_plan.plugin.declaring.marks import STEP_OF_FIXTURE


class Waits(NamedTuple):
    """The steps for which tests wait.

    Attributes:
        combinations: the steps, each combination once.
        numbers: for each test, in order, the number of its combination.
    """

    combinations: list[tuple[str, ...]]
    numbers: list[int]


def waits(
    items: Sequence[pytest.Item],
    needs: Mapping[pytest.Item, tuple[str, ...]],
    part: Callable[[pytest.Item], Hashable],
) -> Waits:
    """Return the steps for which each test waits.

    Tests of one part wait for the same steps if they share an instance of a fixture of a class,
    module or package, or a parameter of a fixture of the session. Otherwise the fixture would be
    set up more often than if all tests began after all steps.

    Args:
        items: the tests.
        needs: the steps that each of them needs.
        part: a function that returns the part of a test, between which no test runs out of order.
    """
    groups = _Groups()
    shared = _Shared()
    for number, item in enumerate(items):
        for key in shared.by(item):
            groups.join((part(item), key), number)
    roots = [groups.root(number) for number in range(len(items))]
    together: dict[int, dict[str, None]] = {}
    for root, item in zip(roots, items, strict=True):
        together.setdefault(root, {}).update(dict.fromkeys(needs.get(item, ())))
    known: dict[tuple[str, ...], int] = {}
    own = {root: tuple(sorted(names)) for root, names in together.items()}
    numbers = [known.setdefault(own[root], len(known)) for root in roots]
    return Waits(list(known), numbers)


class _Groups:
    """Tests, by their numbers, of which those that share a key are in one group."""

    def __init__(self) -> None:
        self._first: dict[Hashable, int] = {}
        self._parents: dict[int, int] = {}

    def join(self, key: Hashable, number: int) -> None:
        """Put a test into the group of all tests that have the key."""
        first, own = self.root(self._first.setdefault(key, number)), self.root(number)
        if first != own:
            self._parents[max(first, own)] = min(first, own)

    def root(self, number: int) -> int:
        """Return the first test of the group of a test."""
        while (parent := self._parents.get(number, number)) != number:
            self._parents[number] = self._parents.get(parent, parent)
            number = parent
        return number


class _Shared:
    """Finds what tests share with others. The tests of one function share most of the work."""

    def __init__(self) -> None:
        self._fixtures: dict[int, list[tuple[str, str, int]]] = {}  # by the id of pytest's info

    def by(self, item: pytest.Item) -> Iterator[Hashable]:
        """Yield a key for each instance of a fixture that outlives the test."""
        if item.config.getoption("loadgroup", None):
            for mark in item.iter_markers("xdist_group"):
                yield "group", str(mark.args[0] if mark.args else mark.kwargs.get("name"))
        info = fixture_info(item)
        if info is None:
            return
        if id(info) not in self._fixtures:
            self._fixtures[id(info)] = list(_outliving(info.name2fixturedefs))
        fixtures = self._fixtures[id(info)]
        indices = getattr(getattr(item, "callspec", None), "indices", {}) if fixtures else {}
        for name, scope, definition in fixtures:
            place = _place(item, scope)
            if place is not None or (scope == "session" and name in indices):
                yield definition, place, indices.get(name)


def _outliving(
    definitions: Mapping[str, Iterable[Any]],
) -> Iterator[tuple[str, str, int]]:
    """Yield the name, the scope and the id of each fixture that tests share, except steps."""
    for name, found in definitions.items():
        for definition in found:
            scope = str(getattr(definition, "scope", "function"))
            is_step = getattr(definition.func, STEP_OF_FIXTURE, None) is not None
            if scope != "function" and not is_step:
                yield name, scope, id(definition)


def _place(item: pytest.Item, scope: str) -> Hashable:
    """Return that to which an instance of a fixture belongs; None if it is the session."""
    if scope == "class":
        return item.getparent(pytest.Class)
    if scope == "module":
        return item.getparent(pytest.Module)
    return scope if scope == "package" else None  # a fixture belongs to the package of its conftest
