"""Implements `--plan-status` with `--plan-share`: shows the environments of a server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.plugin.commands import output
from pytest_plan.plugin.commands.columns import aligned
from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.commands.environments.shared.server import as_reader, living, opened, place
from pytest_plan.plugin.run.environments.sharing.rows import Published, published
from pytest_plan.sharing.errors import ShareSetupError, StaleError
from pytest_plan.sharing.model import Kind, Status, View
from pytest_plan.sharing.protocol import Store

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

SCHEMA = 1
_STATUS = {
    Status.OPEN: "open",
    Status.ENDING: "ending, so nobody joins it any more",
    Status.CLOSED: "being cleaned up",
}


class SharedCondition(NamedTuple):
    """A shared environment, and the outcomes of its steps.

    Attributes:
        view: the environment.
        steps: the outcomes that its owner has published, by the names of the steps.
    """

    view: View
    steps: Mapping[str, Published]

    @property
    def is_dead(self) -> bool:
        """Whether its owner or a step was lost."""
        return not self.view.is_owner_alive or any(one.is_lost for one in self.steps.values())

    def as_json(self) -> dict[str, Any]:
        """Return what `--plan-json` shows of it."""
        view = self.view
        return {
            "name": view.environment.name,
            "id": view.environment.id,
            "epoch": view.environment.epoch,
            "status": view.status.value,
            "owner": None if view.owner is None else str(view.owner),
            "owner_lives": view.is_owner_alive,
            "caretaker": view.is_caretaker,
            "members": [str(one) for one in view.members],
            "age_seconds": view.age,
            "lease_seconds": view.lease,
            "dead": self.is_dead,
            "steps": [
                {"name": name, "outcome": one.outcome.value, "reason": one.reason}
                for name in view.project.steps
                if (one := self.steps.get(name)) is not None
            ],
        }


class SharedStatus(Command):
    """Shows all environments of the server that are in use, or only the one that was named."""

    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Show them; exit with status 1 if an owner or a step was lost, and 0 if there are none.

        Raises:
            pytest.UsageError: the server cannot be used.
        """
        self._say = plan_session.host.foreground.say
        only = self._settings.environment
        with opened(self._settings) as store:
            found, unreadable = [], {}
            for name in store.names() if only is None else [only]:
                try:
                    condition = _condition(store, name)
                except ShareSetupError as error:
                    unreadable[name] = str(error)
                else:
                    found += [] if condition is None else [condition]
            server, where = store.server, place(self._settings, store)
        if self._settings.json:
            self._write_json(server, found, unreadable)
        else:
            self._write_text(where, found, unreadable)
        is_bad = bool(unreadable) or any(one.is_dead for one in found)
        return pytest.ExitCode.TESTS_FAILED if is_bad else pytest.ExitCode.OK

    def _write_json(
        self, server: str, found: Sequence[SharedCondition], unreadable: Mapping[str, str]
    ) -> None:
        report = {
            "schema": SCHEMA,
            "server": server,
            "environments": [one.as_json() for one in found],
            "unreadable": [{"name": name, "reason": reason} for name, reason in unreadable.items()],
        }
        output.write(self._config, f"{json.dumps(report, indent=2)}\n")

    def _write_text(
        self, where: str, found: Sequence[SharedCondition], unreadable: Mapping[str, str]
    ) -> None:
        for one in found:
            self._write_one(one, where)
        for name, reason in unreadable.items():
            self._say(f"the shared environment {name!r} cannot be shown: {reason}", bad=True)
        if not found and not unreadable:
            only = self._settings.environment
            what = (
                "are no shared environments"
                if only is None
                else f"is no shared environment {only!r}"
            )
            self._say(f"there {what} {where}", always=True)

    def _write_one(self, one: SharedCondition, where: str) -> None:
        view = one.view
        facts = (
            f"{_STATUS[view.status]}; it is {format_duration(view.age)} old, its epoch is "
            f"{view.environment.epoch}, and a lease lasts {format_duration(view.lease)}"
        )
        self._say(f"shared environment {view.environment.name!r} {where} is {facts}", always=True)
        self._say(f"  owner: {_owner(view)}", always=True, bad=not view.is_owner_alive)
        members = ", ".join(map(str, view.members)) or "none"
        self._say(f"  members: {members}", always=True)
        names = [name for name in view.project.steps if name in one.steps]
        rows = [_row(name, one.steps[name]) for name in names]
        bad = [False, *(one.steps[name].is_lost for name in names)]
        for line, is_bad in zip(aligned([("step", "outcome", "reason"), *rows]), bad, strict=False):
            self._say(f"  {line}", always=True, bad=is_bad)


def _condition(store: Store, name: str) -> SharedCondition | None:
    """Return the condition of an environment; None if there is none.

    Raises:
        ShareSetupError: another version of pytest-plan has written it.
    """
    while (view := living(store, name)) is not None:
        try:
            return SharedCondition(view, published(store.rows(as_reader(view), Kind.OUTCOME)))
        except StaleError:
            continue  # it has another owner now, or was cleaned up
    return None


def _owner(view: View) -> str:
    who = str(view.owner or "an unknown run")
    if not view.is_owner_alive:
        return f"{who} was lost, or has left the cleanup to others"
    return f"{who}, which took it over to clean it up" if view.is_caretaker else who


def _row(name: str, step: Published) -> tuple[str, str, str]:
    outcome = "lost" if step.is_lost else step.outcome.value
    return name, outcome, "" if step.outcome is StepOutcome.RUNNING else step.reason
