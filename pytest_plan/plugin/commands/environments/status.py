"""Implements `--plan-status`: shows the environments of this project, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.environments.environment import FOLDER, JOURNAL, names
from pytest_plan.engine.journal.reader import ForeignError, read
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.plugin.commands import output
from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.commands.environments.recorded.condition import (
    EnvironmentCondition,
    Use,
    condition,
)
from pytest_plan.plugin.commands.environments.recorded.table import table
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT
from pytest_plan.plugin.run import launch

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

SCHEMA = 1
_HEADS = {
    Use.KEPT: "was kept by {who} {age} ago",
    Use.IN_USE: "is in use by {who} for {age}",
    Use.BEING_CLEANED: "is being cleaned up by {who} for {age}",
    Use.LEFT: "was left by {who} {age} ago",
}


class Status(Command):
    """Shows every environment of this project, or only the one that was named."""

    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Show the environments; exit with status 1 if something is dead or a journal is damaged.

        Raises:
            pytest.UsageError: the named environment is unknown, or `plan_dir` cannot be used.
        """
        self._say = plan_session.host.foreground.say
        try:
            found, unreadable = self._read()
        except JournalError as error:
            raise pytest.UsageError(str(error)) from None
        if self._settings.json:
            self._write_json(found, unreadable)
        else:
            self._write_text(found, unreadable)
        is_damaged = any(not isinstance(error, ForeignError) for error in unreadable.values())
        is_bad = is_damaged or any(one.is_dead for one in found)
        return pytest.ExitCode.TESTS_FAILED if is_bad else pytest.ExitCode.OK

    def _read(self) -> tuple[list[EnvironmentCondition], dict[str, JournalError]]:
        """Return the environments, and the errors of those that cannot be read."""
        plan_dir, only = self._settings.dir, self._settings.environment
        known = names(plan_dir)
        if only is not None and only not in known:
            raise pytest.UsageError(
                f"{self._settings.sources['environment']}: there is no environment {only!r}; "
                f"known environments: {', '.join(known) or 'none'}"
            )
        key = launch.key_of(self._config)
        found, unreadable = [], {}
        for name in known if only is None else [only]:
            try:
                recorded = read(plan_dir / FOLDER / name / JOURNAL, key)
                recorded.check_place()
            except JournalError as error:
                if (plan_dir / FOLDER / name / JOURNAL).exists():  # else it was just cleaned up
                    unreadable[name] = error
            else:
                found.append(condition(name, recorded, plan_dir))
        return found, unreadable

    def _write_json(
        self, found: Sequence[EnvironmentCondition], unreadable: dict[str, JournalError]
    ) -> None:
        report = {
            "schema": SCHEMA,
            "plan_dir": str(self._settings.dir),
            "environments": [one.as_json() for one in found],
            "unreadable": [
                {"name": name, "foreign": isinstance(error, ForeignError), "reason": str(error)}
                for name, error in unreadable.items()
            ],
        }
        output.write(self._config, f"{json.dumps(report, indent=2)}\n")

    def _write_text(
        self, found: Sequence[EnvironmentCondition], unreadable: dict[str, JournalError]
    ) -> None:
        for one in found:
            head = _HEADS[one.use].format(who=_who(one), age=format_duration(one.age))
            self._say(f"environment {one.name!r} {head}", always=True, bad=one.use is Use.LEFT)
            for line, is_dead in table(one.steps, self._config.invocation_params.dir):
                self._say(f"  {line}", always=True, bad=is_dead)
            for step in one.steps:
                if step.output is not None and step.alive is not False:
                    self._say(f"  {step.name} writes to {step.output} (not masked)", always=True)
            self._say_what_to_do(one)
        for name, error in unreadable.items():
            self._say(f"environment {name!r} cannot be shown: {error}", bad=True)
        if not found and not unreadable:
            self._say("there are no environments", always=True)

    def _say_what_to_do(self, one: EnvironmentCondition) -> None:
        if not one.is_dead or one.use not in (Use.KEPT, Use.LEFT):
            return
        option = "--plan-reuse" if one.use is Use.KEPT else "--plan-cleanup"
        what = "rebuild what is dead" if one.use is Use.KEPT else "clean it up"
        name = one.name if one.use is Use.KEPT else DEFAULT_ENVIRONMENT
        self._say(f"  to {what}: {launch.typed(self._config, name, option)}", always=True)


def _who(one: EnvironmentCondition) -> str:
    process = "an unknown process" if one.pid is None else f"process {one.pid} on {one.host}"
    if one.run is None or one.use is Use.BEING_CLEANED:
        return process
    return f"run {one.run} ({process})"
