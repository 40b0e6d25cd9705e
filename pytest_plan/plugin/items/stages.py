"""Stages: the tests that run between steps, in order, and what happens where a stage ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_plan.plugin.compat.fixture_internals import forget_failure
from pytest_plan.plugin.declaring.marks import EACH, is_alone

PROPERTY = "plan_stage"


class Wave(NamedTuple):
    """Tests that may run at the same time. A wave opens once all earlier ones have ended.

    Attributes:
        rank: the highest rank of the steps that the tests need.
        is_alone: whether the tests run alone, one after the other, after the others of their rank.
        tests: the number of tests.
    """

    rank: int
    is_alone: bool
    tests: int


class Stage(NamedTuple):
    """A stage that begins: its tests need steps that begin only after other tests have ended.

    Attributes:
        rank: the rank of the steps with which it begins.
        number: its place among the stages that have tests, counted from 1.
        total: the number of these stages.
        ended: the number of tests that have ended before it.
    """

    rank: int
    number: int
    total: int
    ended: int


def put_in_order(items: list[pytest.Item], rank: Callable[[pytest.Item], int]) -> list[Wave]:
    """Sort tests by stage, and those that run alone to the end of their stage; return the waves.

    The order within a wave stays. If there are several stages, each test gets the property
    `plan_stage`, which reports show.

    Args:
        items: the tests.
        rank: a function that returns the highest rank of the steps that a test needs.
    """
    keys = {item: (rank(item), is_alone(item)) for item in items}
    items.sort(key=keys.__getitem__)
    waves = [
        Wave(*key, len(list(tests))) for key, tests in itertools.groupby(items, keys.__getitem__)
    ]
    numbers = {rank: number for number, rank in enumerate(stage_ranks(waves), 1)}
    for item in items if len(numbers) > 1 else ():
        item.user_properties.append((PROPERTY, numbers[keys[item][0]]))
    return waves


def stage_ranks(waves: Iterable[Wave]) -> list[int]:
    """Return the rank of each stage that has tests, in order."""
    return sorted({wave.rank for wave in waves})


class Boundary(pytest.Item):
    """The item that a worker gets when a stage ends, so that its last test can end.

    A worker of pytest-xdist runs a test only when it knows the next one, because the teardown of
    fixtures depends on it. The boundary needs no fixtures, so that those of functions, classes,
    modules and packages are torn down before it. It is added after collection, and no report has
    it.
    """

    def runtest(self) -> None:
        """Do nothing."""

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return what pytest shows of it if anything goes wrong."""
        return self.path, None, "end of a stage of the plan"


class Boundaries:
    """Adds the boundary to the tests of a worker, and lets it pass without running anything."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Add the boundary, which nobody has collected."""
        session.items.append(Boundary.from_parent(session, name="plan stage"))
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Take the boundary from all plugins that run tests."""
        return True if isinstance(item, Boundary) else None


class StageOpener:
    """Opens each further stage before its first test, in a process that runs its tests itself.

    Args:
        waves: the waves of all tests.
        rank: a function that returns the highest rank of the steps that a test needs.
        begin: a function that ends what is left of the stage before, and provisions the steps of
            the next one.
    """

    def __init__(
        self,
        waves: Iterable[Wave],
        rank: Callable[[pytest.Item], int],
        begin: Callable[[pytest.Session, Stage], None],
    ) -> None:
        self._ranks = stage_ranks(waves)
        self._rank = rank
        self._begin = begin
        self._open = self._ranks[0]
        self._ended = 0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Open the stage of a test before any other plugin, such as one with a timer, sees it."""
        rank = self._rank(item)
        if rank > self._open:
            self._open = rank
            number = self._ranks.index(rank) + 1
            self._begin(item.session, Stage(rank, number, len(self._ranks), self._ended))
        try:
            return (yield)
        finally:
            self._ended += 1


class EarlyRequests:
    """Keeps a step that a test has requested too early from failing for the tests that come later.

    pytest would keep the failure of a session fixture and repeat it in every later test.
    """

    def __init__(self) -> None:
        self._count = 0

    def note(self) -> None:
        """Note that a test or fixture has requested a step too early."""
        self._count += 1

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Let a fixture be set up again if it has failed because of such a request."""
        before = self._count
        try:
            return (yield)
        except BaseException:
            if self._count > before:
                forget_failure(fixturedef, request)
            raise


def parametrize_each(metafunc: pytest.Metafunc, mark: pytest.Mark, *, has_steps: bool) -> None:
    """Let a test with the mark `plan_each` run once with each step that the mark names.

    Args:
        metafunc: the test.
        mark: the mark.
        has_steps: whether any step is declared.
    """
    names = mark.args
    if mark.kwargs or not names or not all(type(name) is str for name in names):
        pytest.fail(
            f"@pytest.mark.{EACH} of {metafunc.definition.nodeid} takes the names of one or more "
            f"steps, such as @pytest.mark.{EACH}('app', 'upgraded')",
            pytrace=False,
        )
    if not has_steps:
        pytest.fail(
            f"@pytest.mark.{EACH} of {metafunc.definition.nodeid} names "
            f"{', '.join(map(repr, names))}, but no step is declared",
            pytrace=False,
        )
    if "plan_step_name" not in metafunc.fixturenames:
        metafunc.fixturenames.append("plan_step_name")
    runs = [pytest.param(name, id=name, marks=pytest.mark.plan(name)) for name in names]
    metafunc.parametrize("plan_step_name", runs)
