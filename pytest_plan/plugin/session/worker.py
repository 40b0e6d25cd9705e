"""Implements the role of a worker of pytest-xdist, which uses the plan of the controller."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.processes.addresses import network
from pytest_plan.engine.processes.copies import call_in_copies, getpid
from pytest_plan.plugin.declaring import marks
from pytest_plan.plugin.interface.options import Settings
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.xdist import roles
from pytest_plan.plugin.xdist.wire import send

if TYPE_CHECKING:
    from pytest_plan.plugin.items.stages import Wave
    from pytest_plan.plugin.session.session import PlanSession
    from pytest_plan.plugin.xdist.client import Client
    from pytest_plan.plugin.xdist.remote import Remote


class Worker:
    """Sends the needs of its tests to the controller, and asks before each test if it can run."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._client: Client | None = None
        self._remote: Remote | None = None
        self._restore_handlers: Callable[[], None] = lambda: None
        variables = config.workerinput.get(roles.ENVIRON, {})  # type: ignore[attr-defined]
        for name in config.workerinput.get(roles.HIDDEN, ()):  # type: ignore[attr-defined]
            os.environ.pop(os.fsdecode(name), None)
        for name, value in variables.items():
            os.environ[os.fsdecode(name)] = os.fsdecode(value)
        # None if the controller has not loaded the plugin.
        self._channel = config.workerinput.get(roles.CHANNEL)  # type: ignore[attr-defined]
        if self._channel is not None:
            self._channel.send((0, "hello", getpid(), platform.node(), network()))
            call_in_copies(self._disconnect)
            # Otherwise pytest would empty the `log_file`, which may have records of steps.
            config.option.log_file_mode = "a"

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Load the conftests that the controller loads, so that steps have the same names."""
        if self._settings.share is not None:
            from pytest_plan.plugin.declaring import conftests

            with contextlib.suppress(pytest.UsageError):  # the controller reports it
                conftests.load_all(self._config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Send the steps that the selected tests need."""
        # Tests that only use the State also need the controller.
        if lookup.peek(self._config) is None and not any(map(marks.takes_handle, session.items)):
            if self._channel is not None and marks.any_alone(session.items):
                from pytest_plan.plugin.items.stages import put_in_order

                self._announce(put_in_order(session.items, lambda item: 0))
            return
        plan_session = lookup.of(self._config, self._settings)
        needs = self._needs(plan_session, session)
        if self._channel is not None:
            if not needs["error"]:
                self._announce_parts(plan_session, session.items)
            send(self._channel, (0, "need", needs))
            self._connect(plan_session, self._channel)
        # Imported only now, while the controller is already provisioning.
        from pytest_plan.plugin.compat.coverage_internals import allow_no_data
        from pytest_plan.plugin.items.gate import Gate

        allow_no_data(self._config)
        # The controller decides when enough tests have failed.
        reported = plan_session.needs_for_reports()
        gate = Gate(self._config, plan_session.verdict, lambda: True, plan_session.loss, reported)
        self._config.pluginmanager.register(gate, "pytest_plan_gate")
        if (remote := self._remote) is not None:
            gate.advice = lambda item: None if plan_session.needs.get(item) else remote.advice()

    def _announce_parts(self, plan_session: PlanSession, items: list[pytest.Item]) -> None:
        """Sort the tests, and tell the controller their parts and the steps for which they wait."""
        waves = plan_session.put_in_order(items)
        overlaps = self._settings.overlap and self._settings.share is None
        if not overlaps or not any(plan_session.needs.values()):
            self._announce(waves)
            return
        from pytest_plan.plugin.items.stages import Wave
        from pytest_plan.plugin.xdist.scheduling.readiness import waits

        found = waits(
            items,
            plan_session.needs,
            lambda item: (plan_session.rank(item), marks.is_alone(item)),
        )
        plan_session.allow_early_requests()
        self._announce(waves or [Wave(0, False, len(items))], tuple(found))

    def _announce(self, waves: list[Wave], waits: tuple[Any, ...] | None = None) -> None:
        """Tell the controller in which parts the tests run; they get a boundary after them."""
        if not waves:
            return
        from pytest_plan.plugin.items.stages import Boundaries

        self._channel.send((0, "waves", [tuple(wave) for wave in waves], waits))
        self._config.pluginmanager.register(Boundaries(), "pytest_plan_boundaries")

    @pytest.hookimpl(specname="pytest_runtestloop", wrapper=True, tryfirst=True)
    def pytest_runtestloop_measured(
        self, session: pytest.Session
    ) -> Generator[None, object, object]:
        """Report in one line that coverage data cannot be written."""
        if lookup.peek(self._config) is None:
            return (yield)
        from pytest_plan.plugin.compat.coverage_internals import report_unwritable_data

        return (yield from report_unwritable_data(session))

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Shorten the traceback, which is never shown: formatting it takes up to a second."""
        if self._client is not None:
            excinfo.traceback = excinfo.traceback[-1:]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """Report that no more tests run, so that teardown is not mistaken for a hanging test."""
        if self._client is not None:
            self._client.ending.set()
            with contextlib.suppress(StateError):
                self._client.tell("ending")
        try:
            return (yield)
        finally:
            # A cleanup of the config alone is not enough: a signal at that time would skip it.
            self._restore_handlers()

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(self) -> Generator[None, Any, Any]:
        """Let a report be sent even if a message has characters that execnet cannot send."""
        from pytest_plan.plugin.compat.xdist_internals import sendable

        return sendable((yield))

    def _disconnect(self) -> None:
        from pytest_plan.plugin.compat.xdist_internals import connection_of, disconnect

        disconnect(connection_of(self._channel))

    def _connect(self, plan_session: PlanSession, channel: Any) -> None:
        """Connect the tests of this worker to the controller, and stop when the controller asks."""
        from pytest_plan.plugin.main_thread.limit import Limit
        from pytest_plan.plugin.main_thread.signals import (
            interrupt_main_thread,
            interrupt_on_terminate,
        )
        from pytest_plan.plugin.xdist.client import Client
        from pytest_plan.plugin.xdist.remote import Remote

        if self._settings.signals:
            self._restore_handlers = interrupt_on_terminate()
            self._config.add_cleanup(self._restore_handlers)
        self._client = client = Client(channel, interrupt_main_thread)
        limit = Limit(
            self._config,
            self._settings.limit,
            lambda item: client.tell("stuck", item.nodeid),
            lambda item: plan_session.verdict(item) is not None,
        )
        self._config.pluginmanager.register(limit, "pytest_plan_limit")
        self._config.add_cleanup(limit.stop)
        workers = roles.worker_count(self._config)
        remote = Remote(client, limit.start, workers, plan_session.runs_alone)
        plan_session.view = self._remote = remote
        plan_session.show_logs(remote.logs, workers=workers)

    def _needs(self, plan_session: PlanSession, session: pytest.Session) -> dict[str, Any]:
        error = None
        try:
            if self._settings.share is not None:
                from pytest_plan.plugin.interface import sharing

                sharing.refuse_alone(session.items, self._settings)
            plan_session.survey(session.items)
        except pytest.UsageError as refused:
            error = str(refused)
        return {
            "needs": sorted({name for needs in plan_session.needs.values() for name in needs}),
            "by_rank": plan_session.needs_by_rank(),
            "conftests": plan_session.declared.conftests(),
            "error": error,
            "broken": self._is_broken(session),
        }

    def _is_broken(self, session: pytest.Session) -> bool:
        option = self._config.option
        return bool(session.testsfailed) and not option.continue_on_collection_errors
