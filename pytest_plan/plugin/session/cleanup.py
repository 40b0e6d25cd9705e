"""`--plan-cleanup`: cleans up what earlier runs have kept or left, and runs no test."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator

import pytest

from pytest_plan.engine.model.errors import describe
from pytest_plan.plugin.options import Settings
from pytest_plan.plugin.session import lookup


def prepare(config: pytest.Config) -> None:
    """Keep other plugins from starting workers or writing files; before pytest configures them."""
    config.option.collectonly = True
    if hasattr(config.option, "xmlpath"):
        config.option.xmlpath = None


def ignore_broken_conftests() -> Generator[None]:
    """Go on when a conftest cannot be loaded: what does not depend on it is cleaned up."""
    try:
        return (yield)
    except Exception as error:
        sys.stderr.write(f"plan: a conftest cannot be loaded: {describe(error)}\n")


class Cleaner:
    """Takes the place of collection and tests."""

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
        """Clean up."""
        from pytest_plan.plugin.run.recovery import BY_REAPER, Recovery

        plan = lookup.of(self._config, self._settings)
        recovery = Recovery(plan.declared, plan.host.foreground)
        plan.host.signals.install()
        # Nobody asked the reaper for what was kept on purpose.
        recovery.clean_up_all(kept=BY_REAPER not in os.environ)
        plan.host.signals.restore()
        if recovery.left:
            self._status = pytest.ExitCode.TESTS_FAILED
            recovery.say(f"something is left of {', '.join(map(repr, recovery.left))}", bad=True)
        else:
            recovery.say("nothing is left of earlier runs")
        return True

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Say with the exit status whether anything is left."""
        try:
            return (yield)
        finally:
            plan = lookup.peek(self._config)
            by_signal = None if plan is None else plan.host.signals.exit_status()
            session.exitstatus = self._status if by_signal is None else by_signal
