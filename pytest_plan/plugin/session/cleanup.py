"""Implements `--plan-cleanup`: cleans up the environments of earlier runs, and runs no tests."""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest

from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.text import visible
from pytest_plan.plugin.options import Settings
from pytest_plan.plugin.session import lookup


def prepare(config: pytest.Config) -> None:
    """Keep other plugins from starting workers or writing files when they are configured."""
    config.option.collectonly = True
    if hasattr(config.option, "xmlpath"):
        config.option.xmlpath = None


def ignore_broken_conftests() -> Generator[None]:
    """Continue if a conftest cannot be loaded, and clean up the steps that do not need it."""
    try:
        return (yield)
    except (Exception, SystemExit, pytest.skip.Exception, pytest.fail.Exception) as error:
        sys.stderr.write(visible(f"plan: a conftest cannot be loaded: {describe(error)}\n"))


class Cleaner:
    """Cleans up instead of collecting and running tests."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._status = pytest.ExitCode.OK

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> bool:
        """Collect nothing."""
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool:
        """Clean up every environment that has no living owner."""
        from pytest_plan.plugin.run import launch
        from pytest_plan.plugin.run.recovery import Recovery

        plan_session = lookup.of(self._config, self._settings)
        # The reaper cleans up after a killed run; it leaves kept environments alone.
        is_read = not launch.was_begun_by_reaper()
        recovery = Recovery(
            plan_session.declared, plan_session.host.foreground, kept=is_read, is_read=is_read
        )
        plan_session.host.signals.install()
        recovery.clean_up_all()
        if is_read:
            recovery.wait_for_cleaners(plan_session.declared.definition.options.cleanup_limit)
        plan_session.host.signals.restore()
        if recovery.left:
            self._status = pytest.ExitCode.TESTS_FAILED
            names = ", ".join(map(repr, recovery.left))
            recovery.say(f"not everything could be cleaned up: {names}", bad=True)
        elif recovery.in_use_by_runs:
            recovery.say("nothing is left of runs that have ended")
        else:
            recovery.say("nothing is left of earlier runs")
        return True

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Exit with status 1 if something is left, or with a received signal's status."""
        try:
            return (yield)
        finally:
            plan_session = lookup.peek(self._config)
            by_signal = None if plan_session is None else plan_session.host.signals.exit_status()
            session.exitstatus = self._status if by_signal is None else by_signal
