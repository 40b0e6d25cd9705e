"""Provisions steps while the workers run tests: the plugin's side of the engine's `Background`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.model.errors import JournalError
from pytest_plan.plugin.compat import testmon_internals, xdist_internals

if TYPE_CHECKING:
    from pytest_plan.engine.execution.coordination.background import Background
    from pytest_plan.plugin.run.host import Host


class Behind:
    """Provisions behind the tests. Everything but the steps themselves happens on the main thread.

    Args:
        config: the config of the controller.
        host: the run of the plan.
        used: a function to call, on the main thread, after steps have ended; it lets tests use
            them.

    Attributes:
        waits: whether steps that the main thread provisions wait for those behind the tests.
    """

    def __init__(self, config: pytest.Config, host: Host, used: Callable[[], None]) -> None:
        self._config = config
        self._host = host
        self._used = used
        self._background: Background | None = None
        self._lent = contextlib.ExitStack()  # what the main thread lends to steps while they run
        self._is_told = False
        self.waits = True
        host.end_other = self._end

    @property
    def is_running(self) -> bool:
        """Whether steps may still run, or the main thread has not noticed yet that they ended."""
        return self._background is not None and self._background.is_running

    def begin(self, names: Collection[str]) -> None:
        """Provision these steps, in addition to those that are being provisioned already."""
        run = self._host.run
        if self._background is None:
            self._background = run.background(self._tell)
        if not self.is_running:
            self._lent.enter_context(testmon_internals.recording(self._config))
            self._lent.enter_context(self._host.foreground.lent())
        self._background.begin(run.due(names))

    def settle(self) -> None:
        """Wait until no step runs any more."""
        if self._background is not None and self.is_running:
            self._deliver(self._background.settle)

    def _end(self, is_over: bool) -> None:
        """Wait until no step runs any more; if the tests are over, let no further one begin."""
        if not self.is_running or not (is_over or self.waits):
            return
        if not is_over:
            self.settle()
            self._used()
            return
        self._host.run.end_provisioning("the tests have ended")
        self.settle()

    def pump(self) -> None:
        """Deliver what has happened, and let tests use the steps that have ended.

        Raises:
            pytest.Session.Interrupted: enough has failed, so that no test may begin.
            BaseException: a signal was received, or the steps cannot go on.
        """
        self._is_told = False
        if self._background is not None and self._host.is_open:
            self._deliver(self._background.pump)
            self._host.signals.raise_received()
            self._host.report_failures(before_tests=True)
            self._used()

    def _deliver(self, deliver: Callable[[], None]) -> None:
        try:
            # Cleanup reports that the journal is broken.
            with self._host.foreground.owned(), contextlib.suppress(JournalError):
                deliver()
        finally:
            if not self.is_running:
                self._lent.close()

    def _tell(self) -> None:
        """Let the main thread call `pump` soon; any thread may call this."""
        if not self._is_told:
            self._is_told = True
            xdist_internals.call_soon(self._config, self.pump)
