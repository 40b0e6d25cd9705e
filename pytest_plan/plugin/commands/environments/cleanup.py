"""Implements `--plan-cleanup`: cleans up the environments of earlier runs, and runs no tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.interface.options import Settings

if TYPE_CHECKING:
    from pytest_plan.plugin.run.environments.recovery import Recovery
    from pytest_plan.plugin.session.session import PlanSession


class Cleaner(Command):
    """Cleans up every environment without a living owner, or only the one that was named."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        from pytest_plan.engine.environments.reap import SHARED

        super().__init__(config, settings)
        self._shared = os.environ.pop(SHARED, None)  # it may contain a password

    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Clean up; the exit status is 1 if something is left."""
        from pytest_plan.plugin.run import launch
        from pytest_plan.plugin.run.environments.recovery import Recovery

        # The reaper cleans up after a killed run; it leaves kept environments alone.
        is_read = not launch.was_begun_by_reaper()
        if self._shared is not None:
            return self._take_over(plan_session, self._shared)
        only = self._settings.environment if is_read else None
        recovery = Recovery(
            plan_session.declared,
            plan_session.host.foreground,
            kept=is_read,
            only=only,
            is_read=is_read,
        )
        plan_session.host.signals.install()
        recovery.clean_up_all()
        if is_read:
            recovery.wait_for_cleaners(plan_session.declared.definition.options.cleanup_limit)
        plan_session.host.signals.restore()
        return self._report(recovery, only)

    def _take_over(self, plan_session: PlanSession, shared: str) -> pytest.ExitCode:
        """Clean up after an owner of a shared environment, as its reaper."""
        from pytest_plan.plugin.run.environments.takeover.reaper import Takeover

        host = plan_session.host
        host.signals.install()
        is_clean = Takeover(shared, plan_session.declared, host.foreground).run()
        host.signals.restore()
        return pytest.ExitCode.OK if is_clean else pytest.ExitCode.TESTS_FAILED

    def _report(self, recovery: Recovery, only: str | None) -> pytest.ExitCode:
        if recovery.left:
            names = ", ".join(map(repr, recovery.left))
            recovery.say(f"not everything could be cleaned up: {names}", bad=True)
            return pytest.ExitCode.TESTS_FAILED
        if recovery.in_use_by_runs:
            recovery.say("nothing is left of runs that have ended")
        elif only is not None:
            recovery.say(f"nothing is left of environment {only!r}")
        else:
            recovery.say("nothing is left of earlier runs")
        return pytest.ExitCode.OK
