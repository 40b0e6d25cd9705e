"""Implements `--plan-down`: cleans up one environment, and runs no tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.environments.environment import BusyError, names
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.environments.recovery import Recovery
from pytest_plan.plugin.run.environments.waiting import Waiting

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession


class Down(Command):
    """Cleans up the environment that was named, or the default one, unless a run uses it.

    `--plan-cleanup` leaves alone what is in use and succeeds; here, it is a failure.
    """

    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Clean up; the exit status is 1 if something is left or in use.

        Raises:
            KeyboardInterrupt: a signal was received while a run used the environment.
        """
        name = self._settings.environment or DEFAULT_ENVIRONMENT
        declared, foreground = plan_session.declared, plan_session.host.foreground
        recovery = Recovery(declared, foreground, kept=True, only=name)
        plan_session.host.signals.install()
        try:
            if not self._waits_for_runs(plan_session, name):
                return pytest.ExitCode.TESTS_FAILED
            recovery.clean_up_all()
            recovery.wait_for_cleaners(declared.definition.options.cleanup_limit)
        finally:
            plan_session.host.signals.restore()
        if recovery.left:
            recovery.say(f"environment {name!r} could not be cleaned up completely", bad=True)
        if recovery.left or recovery.in_use_by_runs:
            return pytest.ExitCode.TESTS_FAILED
        recovery.say(f"nothing is left of environment {name!r}")
        return pytest.ExitCode.OK

    def _waits_for_runs(self, plan_session: PlanSession, name: str) -> bool:
        """Wait until no run uses the environment; return False if one still does."""
        settings, foreground = self._settings, plan_session.host.foreground
        try:
            if name in names(settings.dir):
                waiting = Waiting(
                    settings.dir, launch.key_of(self._config), settings.wait, foreground
                )
                waiting.claim(name).release()
        except BusyError as error:
            foreground.say(f"nothing was cleaned up: {error}", bad=True)
            return False
        except JournalError:
            pass  # the cleanup reports it
        return True
