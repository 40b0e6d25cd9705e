"""The object that the fixture `plan` returns."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_plan.engine.definition.names import Named, VisibleNames, own_name, unknown_step
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.shared.state import State, seen_through

if TYPE_CHECKING:
    from pytest_plan.engine.model.results import StepResult
    from pytest_plan.plugin.items.program import ProgramHandle
    from pytest_plan.plugin.items.verdict import PlanView


class Access(Protocol):
    """The part of `PlanSession` that a handle uses."""

    @property
    def config(self) -> pytest.Config:
        """The config of this process."""

    @property
    def view(self) -> PlanView:
        """The plan as seen by the tests of this process."""

    @property
    def names(self) -> VisibleNames:
        """What names mean to the running test."""

    def key(self, name: str) -> str:
        """Return the key of the State that `name` means to the running test."""

    def shown(self, key: str) -> str:
        """Return the name that means this key to the running test."""

    def instance(self, step: str) -> str:
        """Return the instance of a step that its name means to the running test, or the step.

        Raises:
            KeyError: it can mean several.
        """

    def require(self, name: str) -> None:
        """End the running test unless the step has succeeded."""

    def why_missing(self, name: str) -> str | None:
        """Return why a step has no value yet, if it begins only after the running test."""


class FixtureFolders:
    """Notes the folder of the fixture that is set up or torn down, where it decides names.

    A fixture of a wider scope than a test can be torn down after tests of other folders. It is
    registered only if steps of sibling folders have the same name.

    Args:
        root: rootdir.
        steps: all steps, by their names in the run.
    """

    def __init__(self, root: Path, steps: Mapping[str, Named]) -> None:
        self._root = root
        twins = {own_name(name) for name in steps if "/" in name}
        self._scopes = {step.scope for step in steps.values() if own_name(step.name) in twins}
        self._entered: list[tuple[str, ...]] = []

    @property
    def current(self) -> tuple[str, ...] | None:
        """The folder of the running fixture, or None if names are those of the running test."""
        return self._entered[-1] if self._entered else None

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Note the folder during setup and, by finalizers around that of the fixture, teardown."""
        folder = self._folder(fixturedef)
        if folder is None:
            return (yield)
        fixturedef.addfinalizer(self._entered.pop)  # the first one runs last
        self._entered.append(folder)
        try:
            return (yield)
        finally:
            self._entered.pop()
            fixturedef.addfinalizer(partial(self._entered.append, folder))

    def _folder(self, fixturedef: pytest.FixtureDef[Any]) -> tuple[str, ...] | None:
        """Return the folder of a fixture that sees one of the steps, if its scope is wider."""
        if fixturedef.scope == "function":
            return None
        place = getattr(fixturedef, "baseid", "").partition("::")[0]
        folder = (self._root / place).parts
        sees = any(folder[: len(scope)] == scope for scope in self._scopes)
        return folder if sees else None


class _NamesHere:
    """What names mean to the test that runs when they are used, not when the State is read."""

    def __init__(self, plan_session: Access) -> None:
        self._plan_session = plan_session

    def key(self, name: str) -> str:
        """Return the key of the State that `name` means."""
        return self._plan_session.key(name)

    def shown(self, key: str) -> str:
        """Return the name by which a key of the State is shown."""
        return self._plan_session.shown(key)

    def why_missing(self, name: str) -> str | None:
        """Return why a step has no value yet, if it begins only after the running test."""
        return self._plan_session.why_missing(name)


class _Results(Mapping[str, "StepResult"]):
    """Results of steps, by the names that mean the steps to a test."""

    def __init__(self, results: Mapping[str, StepResult], plan_session: Access) -> None:
        self._results = results
        self._names = plan_session.names  # those of the test that has asked
        self._plan_session = plan_session

    def __getitem__(self, name: str) -> StepResult:
        try:
            found = self._names.find(name)
        except PlanDefinitionError as error:
            raise KeyError(str(error)) from None
        return self._results[name if found is None else self._plan_session.instance(found)]

    def __iter__(self) -> Iterator[str]:
        return iter(map(self._names.shown, self._results))

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return repr(dict(self))


class PlanHandle:
    """The plan as seen by a test."""

    __module__ = "pytest_plan"

    def __init__(self, plan_session: Access) -> None:
        self._plan_session = plan_session

    @property
    def state(self) -> State:
        """The State that all steps and tests share.

        The name of a step means the step that is visible to the running test.
        """
        return seen_through(self._plan_session.view.state, _NamesHere(self._plan_session))

    @property
    def results(self) -> Mapping[str, StepResult]:
        """The results of the steps so far, by the names that mean the steps to the running test."""
        return _Results(self._plan_session.view.results(), self._plan_session)

    @property
    def run_id(self) -> str:
        """The id of this run of the plan: eight hexadecimal digits."""
        return self._plan_session.view.run_id

    @property
    def environment(self) -> str:
        """The name of the environment; if it has no name, `run-` followed by the run id."""
        return self._plan_session.view.environment

    def remaining(self) -> float | None:
        """Return the seconds left until the plan's limit (never negative); None means no limit."""
        return self._plan_session.view.remaining()

    def need(self, *names: str) -> None:
        """Fail the test unless these steps have succeeded; do not provision them.

        Raises:
            pytest.fail.Exception: a step has not succeeded; the message says why.
        """
        for name in names:
            self._plan_session.require(name)

    def program(self, step: str, name: str | None = None) -> ProgramHandle:
        """Return a program that a step has started, so that the test can stop and start it.

        Args:
            step: the name of the step.
            name: the name of the executable; None if the step has started only one program.

        Raises:
            KeyError: there is no such program; the message lists what there is.
            RuntimeError: several workers use the step.
        """
        from pytest_plan.plugin.items.program import ProgramHandle

        session = self._plan_session
        try:
            found = session.names.find(step)
        except PlanDefinitionError as error:
            raise KeyError(str(error)) from None
        if found is None:
            raise KeyError(unknown_step(step, map(session.names.shown, session.names.all)))
        found = session.instance(found)
        handle = ProgramHandle(session.view.control, session.config, step, found)
        handle.name = session.view.control("find", found, name)
        return handle

    def __repr__(self) -> str:
        return f"<PlanHandle {self.environment}>"
