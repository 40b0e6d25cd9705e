"""The plan in a process that runs its tests itself."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_plan.plugin import artifacts
from pytest_plan.plugin.gate import Gate

if TYPE_CHECKING:
    from pytest_plan.plugin.session import PlanSession


class Solo:
    """Provisions before the first test, cleans up after the last."""

    def __init__(self, session: PlanSession) -> None:
        self._plan = session
        session.config.add_cleanup(session.clean_up)  # the net below sessionfinish

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Provision the eager steps: after `pytest_plan_configure`, before all others start."""
        if self._runs(session) and (eager := self._plan.eager_steps()):
            self._plan.provision(eager)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Provision what the selected tests need."""
        option = session.config.option
        if option.collectonly or (session.testsfailed and not option.continue_on_collection_errors):
            return (yield)
        self._plan.survey(session.items)
        if option.setupplan:
            session.config.hook.pytest_plan_show(config=session.config)
        elif self._runs(session):
            session.config.pluginmanager.register(Gate(self._plan), "pytest_plan_gate")
            self._plan.provision(self._plan.needed)
        return (yield)

    @pytest.hookimpl(specname="pytest_runtestloop", tryfirst=True)
    def pytest_runtestloop_show(self, session: pytest.Session) -> bool | None:
        """Print the plan instead of running tests."""
        if not self._plan.settings.show or session.config.option.collectonly:
            return None
        session.config.hook.pytest_plan_show(config=session.config)
        return True

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Clean up after everything else, whatever that raised."""
        try:
            return (yield)
        finally:
            self._plan.clean_up()
            if self._plan.has_begun:
                artifacts.tidy(self._plan.settings.dir)
            if self._plan.has_failed() and session.exitstatus in _GREEN:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _runs(self, session: pytest.Session) -> bool:
        option = session.config.option
        return not (option.collectonly or option.setupplan or self._plan.settings.show)


_GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
