"""Implements the role of a process that runs its tests itself."""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import TYPE_CHECKING

import pytest

from pytest_plan.plugin.declaring import marks
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.owner import Owner

if TYPE_CHECKING:
    from pytest_plan.plugin.items.stages import Stage, Wave
    from pytest_plan.plugin.main_thread.limit import Limit
    from pytest_plan.plugin.session.session import PlanSession


class Solo(Owner):
    """Provisions the plan before the first test."""

    def run_tests(self, session: pytest.Session) -> Generator[None, object, object]:
        """Provision the steps that the selected tests need, and run the tests."""
        option = self._config.option
        is_broken = session.testsfailed and not option.continue_on_collection_errors
        plan_session = lookup.peek(self._config)
        if is_broken and plan_session is not None and self.is_counted():
            plan_session.host.provision(())
        if plan_session is None or option.collectonly or is_broken:
            if marks.any_alone(session.items):
                from pytest_plan.plugin.items.stages import put_in_order

                put_in_order(session.items, lambda item: 0)
            return (yield)
        if self._settings.share is not None and self.runs() and not self._settings.up:
            from pytest_plan.plugin.interface import sharing

            sharing.refuse_alone(session.items, self._settings)
        plan_session.survey(session.items)
        waves = self.put_in_order(plan_session, session.items)
        if option.setupplan:
            self._show()
        elif self.runs():
            from pytest_plan.plugin.items.gate import Gate

            limit = self._limit(plan_session)
            host = plan_session.host
            gate = Gate(
                self._config,
                plan_session.verdict,
                host.has_failed,
                plan_session.loss,
                plan_session.needs_for_reports(),
            )
            self._config.pluginmanager.register(gate, "pytest_plan_gate")
            plan_session.show_logs(plan_session.logs())
            if plan_session.declared.needed:
                self._warn()
                self._say_no_overlap(plan_session)
            self._open_stages(plan_session, waves, limit)
            plan_session.host.provision(self.due(plan_session))
            limit.start(plan_session.host.remaining)
        result = yield
        self.provision_rest(plan_session)
        return result

    def due(self, plan_session: PlanSession) -> Collection[str]:
        """Return the steps to provision before the first test."""
        return plan_session.declared.due()

    def put_in_order(self, plan_session: PlanSession, items: list[pytest.Item]) -> list[Wave]:
        """Sort tests by stage; return the waves in which they run, or [] for only one."""
        return plan_session.put_in_order(items)

    def provision_rest(self, plan_session: PlanSession) -> None:
        """Provision what `--plan-until` asks for and no test has needed."""
        plan_session.provision_rest()

    def _open_stages(self, plan_session: PlanSession, waves: list[Wave], limit: Limit) -> None:
        """Let each further stage begin when the tests of the one before have ended."""
        if not waves:
            return
        from pytest_plan.plugin.compat.fixture_internals import tear_down_fixtures
        from pytest_plan.plugin.items.stages import StageOpener

        def begin(session: pytest.Session, stage: Stage) -> None:
            tear_down_fixtures(session, plan_session.host.mask, keep_session=True)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            limit.end_if_passed(session)
            plan_session.begin_stage(stage, plan_session.host.provision)

        plan_session.declared.selection.opened = waves[0].rank
        opener = StageOpener(waves, plan_session.rank, begin)
        # Registered after the gate, so that it comes before the gate.
        self._config.pluginmanager.register(opener, "pytest_plan_stages")

    @pytest.hookimpl
    def pytest_enter_pdb(self) -> None:
        """Suspend the limit while a debugger is open."""
        plan_session = lookup.peek(self._config)
        if plan_session is not None and plan_session.host.has_begun:
            plan_session.host.hold()

    @pytest.hookimpl
    def pytest_leave_pdb(self) -> None:
        """Resume counting time toward the limit."""
        plan_session = lookup.peek(self._config)
        if plan_session is not None and plan_session.host.has_begun:
            plan_session.host.resume()

    def _say_no_overlap(self, plan_session: PlanSession) -> None:
        if self._settings.overlap and not self._settings.up:
            text = (
                f"{self._settings.sources['overlap']} needs workers, so tests begin after the last "
                "step; -n 1 is enough"
            )
            plan_session.host.foreground.say(text)

    def _warn(self) -> None:
        from pytest_plan.plugin.main_thread.limit import warn_of_thread_method

        warn_of_thread_method(self._config)

    def _limit(self, plan_session: PlanSession) -> Limit:
        from pytest_plan.plugin.main_thread.last_resort import leave
        from pytest_plan.plugin.main_thread.limit import Limit

        limit = Limit(
            self._config,
            plan_session.settings.limit,
            lambda item: leave(plan_session.host.foreground, plan_session.host.clean_up, item),
            lambda item: plan_session.verdict(item) is not None,
        )
        self._config.pluginmanager.register(limit, "pytest_plan_limit")
        self._config.add_cleanup(limit.stop)
        return limit

    @pytest.hookimpl(specname="pytest_runtestloop", tryfirst=True)
    def pytest_runtestloop_show(self) -> bool | None:
        """Print the plan instead of running tests."""
        if not self._settings.show or self._config.option.collectonly:
            return None
        self._show()
        return True

    def _show(self) -> None:
        from pytest_plan.plugin.run.hook_caller import ERRORS, refusal

        try:
            self._config.hook.pytest_plan_show(config=self._config)
        except ERRORS as error:
            raise refusal("pytest_plan_show has raised an error", error) from None
