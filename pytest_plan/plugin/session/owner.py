"""Starts and cleans up the plan: the base class of the roles `Solo` and `Controller`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_plan.plugin.compat import pytest_internals
from pytest_plan.plugin.interface.options import Settings
from pytest_plan.plugin.session import lookup

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

_NO_TESTS = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test", "cacheshow")
_GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


class Owner:
    """Provisions the eager steps, and cleans up at the end of the session."""

    _getpid = staticmethod(os.getpid)  # a test may replace it

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._process = self._getpid()
        self._session: pytest.Session | None = None  # None again once it has finished
        self._has_counted = False
        config.add_cleanup(self._clean_up_after_all)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Provision eager steps, after `pytest_plan_configure` and before other plugins start."""
        self._session = session
        if self._settings.share is not None and self.runs():
            from pytest_plan.plugin.declaring import conftests

            conftests.load_all(self._config)
        plan_session = lookup.peek(self._config)
        if plan_session is None or not self.runs():
            return
        plan_session.find_workers()
        self.provision_eager(plan_session)

    def provision_eager(self, plan_session: PlanSession) -> None:
        """Provision the eager steps."""
        if eager := plan_session.declared.eager_steps():
            plan_session.host.provision(eager)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Provision before the tests and clean up after them, inside the hooks of other plugins.

        These plugins therefore see what steps do, such as pytest-cov and pytest's own logging, and
        pytest knows the outcome before it calls any `pytest_sessionfinish` hook.
        """
        try:
            result = yield from self.run_tests(session)
            self._end_progress()
        except BaseException as error:
            self._note(error)
            self._end_loop(session, failed=_is_failure(error))
            raise
        self._end_loop(session, failed=bool(session.testsfailed))
        if (plan_session := lookup.peek(self._config)) is not None:
            self.raise_received(plan_session)
        return result

    @pytest.hookimpl(specname="pytest_runtestloop", wrapper=True, tryfirst=True)
    def pytest_runtestloop_measured(
        self, session: pytest.Session
    ) -> Generator[None, object, object]:
        """Report in one line that coverage data cannot be written."""
        if lookup.peek(self._config) is None:
            return (yield)
        from pytest_plan.plugin.compat.coverage_internals import report_unwritable_data

        return (yield from report_unwritable_data(session))

    def run_tests(self, session: pytest.Session) -> Generator[None, object, object]:
        """Run the tests, which is what pytest does at the `yield`."""
        return (yield)

    def raise_received(self, plan_session: PlanSession) -> None:
        """Raise the exception for the first signal that was received."""
        plan_session.host.signals.raise_received()

    def end_tests(self) -> None:
        """End the tests that still run in other processes."""

    def pytest_runtest_logfinish(self) -> None:
        """Report between tests that a step was lost, or the journal was and is written again."""
        plan_session = lookup.peek(self._config)
        if plan_session is not None and plan_session.host.is_open:
            plan_session.host.watching.tell()
            plan_session.host.say_repairs()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_keyboard_interrupt(
        self, excinfo: pytest.ExceptionInfo[BaseException]
    ) -> Generator[None]:
        """Mask the traceback, and shorten it to what pytest shows: formatting all takes a second.

        pytest is handling an exception that ends the session, for example of `pytest.exit`, and
        would not catch another one. Signals are recorded, and the third cuts these hooks short.
        """
        plan_session = lookup.peek(self._config)
        if plan_session is None:
            return (yield)
        host = plan_session.host
        host.signals.begin_ending()
        pytest_internals.mask_tracebacks(excinfo, host.mask)
        if host.has_begun and not self._config.option.fulltrace:
            visible = excinfo.traceback.filter(excinfo)
            excinfo.traceback = visible[-1:] if len(visible) else excinfo.traceback[-1:]
        try:
            return (yield)
        except KeyboardInterrupt:
            if not host.signals.received:
                raise
        return None

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Clean up if the tests never began, after the hooks of all other plugins."""
        try:
            return (yield)
        finally:
            self.clean_up()
            self._count_out(session)
            self._stop_handling_signals()
            self.set_exit_status(session)
            self._session = None

    @pytest.hookimpl(specname="pytest_sessionfinish", wrapper=True, tryfirst=True)
    def pytest_sessionfinish_uninterrupted(self, session: pytest.Session) -> Generator[None]:
        """End a forked copy of the process before any of these hooks.

        Protect the session-finish hooks from a second signal; a third cuts them short.
        """
        plan_session = lookup.peek(self._config)
        if plan_session is None:
            return (yield)
        if self._getpid() != self._process:
            # The hooks of a copy would overwrite reports and print another summary.
            os._exit(int(session.exitstatus))
        plan_session.host.signals.begin_ending()
        try:
            return (yield)
        except KeyboardInterrupt:
            if not plan_session.host.signals.received:
                raise
        return None

    def _note(self, error: BaseException) -> None:
        plan_session = lookup.peek(self._config)
        if plan_session is not None and _is_failure(error):
            plan_session.ended_by = error

    def _end_progress(self) -> None:
        plan_session = lookup.peek(self._config)
        if plan_session is not None and plan_session.host.is_open:
            from pytest_plan.plugin.compat.report_internals import end_progress

            end_progress(self._config)

    def _end_loop(self, session: pytest.Session, *, failed: bool) -> None:
        """Clean up, and settle the exit status before any `pytest_sessionfinish` hook.

        pytest itself tears down fixtures before these hooks only after the last test, and they may
        still use the environment.
        """
        plan_session = lookup.peek(self._config)
        if plan_session is None or not plan_session.host.is_open:
            return
        from pytest_plan.plugin.compat.fixture_internals import tear_down_fixtures

        host = plan_session.host
        host.signals.begin_ending()
        try:
            self.end_tests()
            tear_down_fixtures(session, host.mask)
        finally:
            self.clean_up(failed=failed or bool(session.testsfailed))
            if host.has_failed() or host.limit_has_passed():
                session.testsfailed = session.testsfailed or 1  # pytest exits with status 1

    def _clean_up_after_all(self) -> None:
        # pytest does not call sessionfinish hooks if a sessionstart hook failed.
        self.clean_up()
        if self._session is not None:
            self._count_out(self._session)
        self._stop_handling_signals()
        if self._session is not None:
            self.set_exit_status(self._session)

    def _count_out(self, session: pytest.Session) -> None:
        """Let the owner of a shared environment not wait for this run if it could not join."""
        if session.exitstatus in _GREEN or self._has_counted or not self.is_counted():
            return
        self._has_counted = True
        plan_session = lookup.peek(self._config)
        if plan_session is not None and plan_session.host.share is not None:
            return
        from pytest_plan.plugin.run.environments.sharing.joining import count_out

        reporter = self._config.pluginmanager.get_plugin("terminalreporter")

        def say(text: str) -> None:
            if reporter is not None:
                reporter.write_line(f"plan: {text}")

        is_cancelled = session.exitstatus == pytest.ExitCode.INTERRUPTED and not session.testsfailed
        with contextlib.suppress(KeyboardInterrupt):  # it ends the wait; this run has failed anyway
            count_out(self._settings, say, is_hurried=is_cancelled)

    def is_counted(self) -> bool:
        """Return whether other runs count on this one to join their environment."""
        if self._settings.share is None or not self.runs():
            return False
        from pytest_plan.plugin.interface import sharing

        return sharing.runs_of(self._settings) > 0

    def _stop_handling_signals(self) -> None:
        # Until now, a signal must not end the hooks of other plugins.
        plan_session = lookup.peek(self._config)
        if plan_session is not None and not plan_session.host.is_copied:
            plan_session.host.signals.restore()

    def set_exit_status(self, session: pytest.Session) -> None:
        """Let pytest exit with the status of a received signal, or of a failure of the plan."""
        plan_session = lookup.peek(self._config)
        if plan_session is None:
            return
        by_signal = plan_session.host.signals.exit_status()
        if by_signal is not None:
            session.exitstatus = by_signal
            return
        has_failed = plan_session.host.has_failed() and session.exitstatus in _GREEN
        if has_failed or plan_session.host.limit_has_passed():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def clean_up(self, *, failed: bool | None = None) -> None:
        """Clean up the steps that have begun; a second call does nothing.

        Args:
            failed: whether the session has failed; None means that its exit status says so.
        """
        plan_session = lookup.peek(self._config)
        if plan_session is None:
            return
        if failed is None:
            failed = self._session is not None and self._session.exitstatus not in _GREEN
        plan_session.host.clean_up(failed=failed)

    def runs(self) -> bool:
        """Return whether this session runs steps; `--collect-only` and the like do not."""
        option = self._config.option
        return not (self._settings.show or any(getattr(option, name, None) for name in _NO_TESTS))


def _is_failure(error: BaseException) -> bool:
    """Return whether pytest exits with a status that is not green because of this exception."""
    return not isinstance(error, pytest.exit.Exception) or error.returncode not in _GREEN
