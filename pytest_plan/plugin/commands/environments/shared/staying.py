"""The time for which an owner without tests provides its environment to other runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.plugin.main_thread.heartbeat import Heartbeat
from pytest_plan.sharing.errors import ShareError
from pytest_plan.sharing.model import Status

if TYPE_CHECKING:
    from pytest_plan.plugin.run.environments.sharing.host import SharedHost

_HEARTBEAT = 60.0  # seconds between two lines without a terminal


class Staying:
    """Waits in the foreground until the environment is to be cleaned up.

    Args:
        config: the config of this process.
        host: the owner's run, which has provisioned its steps.
        unused: the seconds without any member after which the wait ends; None means no limit.
    """

    def __init__(self, config: pytest.Config, host: SharedHost, unused: float | None) -> None:
        self._host = host
        self._unused = unused
        self._since = SystemClock.now()  # when a member was last seen
        self._joins = host.link.view.joins
        self._is_closed = False  # whether this process has begun the cleanup
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        has_terminal = getattr(reporter, "isatty", False)
        self._every = math.inf if has_terminal else _HEARTBEAT

    def wait(self) -> str:
        """Wait; return why the wait is over.

        While it lasts, the plan's limit stands still, and steps that are lost are reported.
        """
        host = self._host
        say = Heartbeat(host.foreground, self._users, self._every)
        host.hold()
        with host.foreground.owned():
            host.link.wait(lambda: bool(self._why_over()), say)
        host.resume()
        return self._why_over()

    def _why_over(self) -> str:
        host, link = self._host, self._host.link
        if host.signals.received:
            return "a signal was received"
        if link.trouble is None:
            host.run.catch_up()
            host.watching.look()
            host.watching.tell()
            host.say_repairs()
        if link.trouble is not None:
            return "the server cannot be used"
        if link.view.status is Status.OPEN and self._is_unused():
            self._close()
        if link.view.status is Status.ENDING:
            return "--plan-down was called"
        if self._is_closed:
            return f"no run has used it for {format_duration(self._unused or 0.0)}"
        return ""

    def _is_unused(self) -> bool:
        view, now = self._host.link.view, SystemClock.now()
        if view.members or view.joins != self._joins:
            self._since, self._joins = now, view.joins
        return self._unused is not None and now >= self._since + self._unused

    def _close(self) -> None:
        """Begin the cleanup, unless a run has just joined."""
        link = self._host.link
        try:
            link.see(link.store.close(link.access))
            self._is_closed = link.view.status is Status.CLOSED
        except ShareError as error:
            link.fail(str(error))

    def _users(self) -> str:
        link = self._host.link
        members = [str(one) for one in link.view.members]
        if members:
            return f"{link.name!r} is used by {', '.join(members)}"
        after = "" if self._unused is None else f"; it ends after {format_duration(self._unused)}"
        return f"{link.name!r} is not used by any run{after}"
