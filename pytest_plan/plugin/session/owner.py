"""What solo and controller have in common: the plan is theirs to start and to end."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_plan.plugin.options import Settings
from pytest_plan.plugin.session import lookup

_NO_TESTS = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test", "cacheshow")
_GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


class Owner:
    """Provisions the eager steps, and cleans up after everything else."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._session: pytest.Session | None = None  # until it has finished
        config.add_cleanup(self._clean_up_after_all)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Provision the eager steps: after `pytest_plan_configure`, before all others start."""
        self._session = session
        plan = lookup.peek(self._config)
        if plan is not None and self.runs() and (eager := plan.declared.eager_steps()):
            plan.host.provision(eager)

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Keep what pytest shows of it, one line, and spare it the rest: cleanup waits for that."""
        plan = lookup.peek(self._config)
        if plan is not None and plan.host.is_open and not self._config.option.fulltrace:
            own = excinfo.traceback.filter(excinfo)
            excinfo.traceback = own[-1:] if len(own) else excinfo.traceback[-1:]

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Clean up after every other plugin, whatever they raised."""
        try:
            return (yield)
        finally:
            self.clean_up()
            self._set_exit_status(session)
            self._session = None

    @pytest.hookimpl(specname="pytest_sessionfinish", wrapper=True, tryfirst=True)
    def pytest_sessionfinish_spared(self) -> Generator[None]:
        """Let a second signal not cut short how pytest winds up; a third does."""
        plan = lookup.peek(self._config)
        if plan is None:
            return (yield)
        plan.host.signals.spare()
        try:
            return (yield)
        except KeyboardInterrupt:
            if not plan.host.signals.received:
                raise
        return None

    def _clean_up_after_all(self) -> None:
        # The net below sessionfinish, which pytest does not call when a sessionstart failed.
        self.clean_up()
        if self._session is not None:
            self._set_exit_status(self._session)

    def _set_exit_status(self, session: pytest.Session) -> None:
        plan = lookup.peek(self._config)
        if plan is None:
            return
        by_signal = plan.host.signals.exit_status()
        if by_signal is not None:
            session.exitstatus = by_signal
            return
        has_failed = plan.host.has_failed() and session.exitstatus in _GREEN
        if has_failed or plan.host.limit_has_passed():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def clean_up(self) -> None:
        """Clean up what has begun; a second call does nothing."""
        plan = lookup.peek(self._config)
        if plan is not None:
            session = self._session
            failed = session is not None and session.exitstatus not in _GREEN
            plan.host.clean_up(failed=failed)

    def runs(self) -> bool:
        """Whether steps may run at all."""
        option = self._config.option
        return not (self._settings.show or any(getattr(option, name, None) for name in _NO_TESTS))
