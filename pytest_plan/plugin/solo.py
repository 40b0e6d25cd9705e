"""The plan in a process that runs its tests itself."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_plan.plugin import lookup
from pytest_plan.plugin.owner import Owner


class Solo(Owner):
    """Provisions before the first test."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Provision what the selected tests need."""
        plan = lookup.peek(self._config)
        option = self._config.option
        if (
            plan is None
            or option.collectonly
            or (session.testsfailed and not option.continue_on_collection_errors)
        ):
            return (yield)
        plan.survey(session.items)
        if option.setupplan:
            self._config.hook.pytest_plan_show(config=self._config)
        elif self.runs():
            from pytest_plan.plugin.gate import Gate

            self._config.pluginmanager.register(Gate(plan), "pytest_plan_gate")
            plan.host.provision(plan.needed or ())
        return (yield)

    @pytest.hookimpl(specname="pytest_runtestloop", tryfirst=True)
    def pytest_runtestloop_show(self) -> bool | None:
        """Print the plan instead of running tests."""
        if not self._settings.show or self._config.option.collectonly:
            return None
        self._config.hook.pytest_plan_show(config=self._config)
        return True
