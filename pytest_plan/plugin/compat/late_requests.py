"""Internals of plugins that request fixtures only while a test runs: pytest-bdd, pytest-django.

If they are missing, a mark must declare the steps that such a test needs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from pytest_plan.plugin.compat.fixture_internals import fixture_definitions_from

# The fixtures that one function requests, and the definitions of all fixtures that it reaches.
Requests = tuple[Sequence[str], Mapping[str, Sequence[Any]]]


class LateRequests:
    """Finds the fixtures that plugins will request while a test runs."""

    def __init__(self) -> None:
        self._scenarios = Scenarios()

    def of(self, item: pytest.Item) -> list[Requests]:
        """Return what plugins will request for this test."""
        requests = self._scenarios.requests(item)
        if names := list(_of_django(item)):
            requests.append((names, fixture_definitions_from(item, names, frozenset())))
        return requests


class Scenarios:
    """Finds the fixtures that scenarios request only while they run, without running anything.

    pytest-bdd looks for the function of each `Given`, `When` and `Then` line when it gets there,
    and requests the fixtures that the function takes from pytest.
    """

    def __init__(self) -> None:
        self._contexts: dict[tuple[object, str, str], Any | None] = {}

    def requests(self, item: pytest.Item) -> list[Requests]:
        """Return what the functions of a scenario request; nothing if the test is no scenario.

        If pytest-bdd has other internals, nothing is found. The same holds for a scenario that has
        an error, which pytest-bdd reports when it runs the test.
        """
        bdd = sys.modules.get("pytest_bdd.scenario")
        if bdd is None:
            return []
        try:
            template = _template(bdd, item)
            return [] if template is None else list(self._requests(bdd, item, template))
        except Exception:
            return []

    def _requests(self, bdd: Any, item: pytest.Item, template: Any) -> Iterator[Requests]:
        params = getattr(getattr(item, "callspec", None), "params", {})
        arguments_of = getattr(bdd, "get_required_args", None) or bdd.get_args  # pytest-bdd 7
        injected: set[str] = set()  # fixtures that have got the value of an earlier line
        for line in template.render(params.get("_pytest_bdd_example", {})).steps:
            context = self._context(bdd, item.parent, line)
            if context is None:
                continue  # the line has no function: pytest-bdd will fail the test
            given = set(context.parser.parse_arguments(line.name) or ()) | injected
            given.update(name for name in ("datatable", "docstring") if getattr(line, name, None))
            names = [name for name in arguments_of(context.step_func) if name not in given]
            yield names, fixture_definitions_from(item, names, injected)
            if context.target_fixture is not None:
                injected.add(context.target_fixture)

    def _context(self, bdd: Any, parent: Any, line: Any) -> Any | None:
        """Return the function of a line, with its parser and its `target_fixture`."""
        key = (parent, line.type, line.name)
        if key not in self._contexts:
            manager = parent.session._fixturemanager
            name = bdd.get_step_fixture_name(step=line)
            with bdd.inject_fixturedefs_for_step(step=line, fixturemanager=manager, node=parent):
                found = manager.getfixturedefs(name, parent)
            # The function of this fixture is pytest-bdd's own, and returns the context.
            self._contexts[key] = found[-1].func() if found else None
        return self._contexts[key]


def _template(bdd: Any, item: pytest.Item) -> Any | None:
    """Return the scenario of a test, or None; an outline has placeholders in it."""
    function = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    registry = getattr(bdd, "scenario_wrapper_template_registry", None)
    if registry is None:
        return getattr(function, "__scenario__", None)  # pytest-bdd 7 and 8
    return registry.get(function)


def _of_django(item: pytest.Item) -> Iterator[str]:
    """Yield the fixtures with which pytest-django gives a test its database."""
    if "django" not in sys.modules:
        return
    if item.get_closest_marker("django_db") is not None:
        yield "_django_db_helper"
    if "live_server" in getattr(item, "fixturenames", ()):
        yield "transactional_db"
    case = getattr(sys.modules.get("django.test"), "SimpleTestCase", None)
    own: Any = getattr(item, "cls", None) or object
    if case is not None and issubclass(own, case) and own.databases:
        yield "django_db_setup"
