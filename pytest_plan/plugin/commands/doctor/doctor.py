"""Implements `--plan-doctor`: checks the setup, and prints a block to paste into an issue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.model.text import printable, visible
from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.commands.doctor.containers import containers
from pytest_plan.plugin.commands.doctor.environments import environments
from pytest_plan.plugin.commands.doctor.finding import Finding, Level, private
from pytest_plan.plugin.commands.doctor.machine import descriptors, journal, temporary_folder
from pytest_plan.plugin.commands.doctor.versions import ourselves, packages, plugins, python

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession


class Doctor(Command):
    """Checks versions, this machine, and what earlier runs have left."""

    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Print what was found; the exit status is 1 if there is a problem."""
        found = [finding for check in self._checks() for finding in _findings(check)]
        writer = self._config.get_terminal_writer()
        width = max(len(one.subject) for one in found)
        for line in ("```text", *(one.line(width) for one in found), "```"):
            writer.line(printable(visible(private(line))))
        counts = {level: sum(one.level is level for one in found) for level in Level}
        problems, notes = counts[Level.PROBLEM], counts[Level.NOTE]
        text = f"{_counted(problems, 'problem')}, {_counted(notes, 'note')}"
        plan_session.host.foreground.say(text, bad=problems > 0, always=True)
        return pytest.ExitCode.TESTS_FAILED if problems else pytest.ExitCode.OK

    def _checks(self) -> Iterator[Callable[[], Iterable[Finding]]]:
        config, settings = self._config, self._settings
        yield lambda: ourselves(config)
        yield python
        yield lambda: packages(config)
        yield lambda: plugins(config)
        yield temporary_folder
        yield descriptors
        # Before the journal is tried, which would be one more environment.
        yield lambda: environments(config, settings)
        yield lambda: journal(config, settings)
        yield containers


def _findings(check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds. A check that fails is a problem, and does not stop the others."""
    try:
        yield from check()
    except Exception as error:
        # The text of the error is left out, because it may contain anything.
        yield Finding(Level.PROBLEM, "doctor", f"a check has failed: {type(error).__name__}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
