"""The base class of commands: plugins that do something else instead of running tests."""

from __future__ import annotations

import abc
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.text import visible
from pytest_plan.plugin.commands import output
from pytest_plan.plugin.interface.options import Settings
from pytest_plan.plugin.session import lookup

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession


def begin(config: pytest.Config) -> None:
    """Prepare a command before pytest captures output and pytest-cov begins to measure."""
    if output.is_read(config.known_args_namespace):
        output.reserve(config)
    # Without tests, pytest-cov would replace the data of the last run, and miss a minimum.
    config.known_args_namespace.no_cov = True


def prepare(config: pytest.Config) -> None:
    """Keep other plugins from starting workers or writing files when they are configured."""
    if not config.option.plan_up:
        config.option.collectonly = True
    if hasattr(config.option, "xmlpath"):
        config.option.xmlpath = None
    if output.is_read(config.option):
        output.reserve(config)
        if not config.option.plan_up:
            config.option.verbose = -2
            config.option.no_summary = True


def ignore_broken_conftests(config: pytest.Config) -> Generator[None]:
    """Continue if a conftest cannot be loaded, without the steps of that conftest."""
    try:
        return (yield)
    except (Exception, SystemExit, pytest.skip.Exception, pytest.fail.Exception) as error:
        config.stash.setdefault(lookup.FAILURES, []).append("a conftest cannot be loaded")
        sys.stderr.write(visible(f"plan: a conftest cannot be loaded: {describe(error)}\n"))


class Command(abc.ABC):
    """Runs a command instead of collecting and running tests.

    Args:
        config: the config of this process.
        settings: the options.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._status = pytest.ExitCode.OK

    @abc.abstractmethod
    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Run the command; return the exit status."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> bool:
        """Collect nothing."""
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool:
        """Run the command."""
        plan_session = lookup.of(self._config, self._settings)
        self._status = self.run(plan_session)
        return True

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Exit with the status of the command, or with a received signal's status."""
        try:
            return (yield)
        finally:
            plan_session = lookup.peek(self._config)
            by_signal = None if plan_session is None else plan_session.host.signals.exit_status()
            session.exitstatus = self._status if by_signal is None else by_signal
