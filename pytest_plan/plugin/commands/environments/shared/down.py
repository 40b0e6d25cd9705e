"""Implements `--plan-down` with `--plan-share`: ends an environment, and waits until it is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.commands.environments.shared.server import living, opened
from pytest_plan.plugin.interface import sharing
from pytest_plan.plugin.main_thread.heartbeat import Heartbeat
from pytest_plan.plugin.run.environments.sharing.joining import this_member
from pytest_plan.plugin.run.environments.sharing.link import Link
from pytest_plan.plugin.run.environments.takeover.caretaker import Caretaker
from pytest_plan.sharing.errors import StaleError
from pytest_plan.sharing.model import Access, Joined, Role, Status, View
from pytest_plan.sharing.protocol import Store

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

_LOOK = 0.5  # seconds between two looks although no change was notified


class SharedDown(Command):
    """Lets nobody join the environment any more, and waits until its owner has cleaned it up."""

    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Wait; the exit status is 1 if something is left, or after `--plan-wait`.

        Raises:
            pytest.UsageError: the server cannot be used, or the environment has no name.
            KeyboardInterrupt: a signal was received.
        """
        sharing.check_name(self._settings)
        host, name = plan_session.host, sharing.name_of(self._settings)
        host.signals.install()
        try:
            with opened(self._settings) as store:
                left = _Ending(store, name, plan_session).why_left()
        finally:
            host.signals.restore()
        if left:
            host.foreground.say(left, bad=True)
            return pytest.ExitCode.TESTS_FAILED
        text = f"nothing is left of the shared environment {name!r}"
        host.foreground.say(text, always=True)
        return pytest.ExitCode.OK


class _Ending:
    """The end of a shared environment, as a process sees it that is no member.

    Args:
        store: the store.
        name: the name of the environment.
        plan_session: the plan session of this process.
    """

    def __init__(self, store: Store, name: str, plan_session: PlanSession) -> None:
        self._store = store
        self._name = name
        self._declared = plan_session.declared
        self._foreground = plan_session.host.foreground
        self._settings = plan_session.settings

    def why_left(self) -> str:
        """Wait until the environment is cleaned up; return why it is not, or "".

        Raises:
            ShareError: the server does not answer any more.
            KeyboardInterrupt: a signal was received.
        """
        view = self._end_joining()
        if view is None:
            return ""
        seen, id_ = [view], view.environment.id
        say = Heartbeat(self._foreground, lambda: _waiting(seen[-1]))
        begun, listener = SystemClock.now(), self._store.listen(self._name)
        try:
            while view is not None and view.environment.id == id_:
                seen[:] = [view]
                if not view.is_owner_alive and (link := self._claimed(view)) is not None:
                    return self._clean_up(link)
                longest = self._settings.wait
                if longest and SystemClock.now() >= begun + longest:
                    limit = format_duration(longest)
                    return f"{_waiting(view)}; this command has waited for {limit}"
                say()
                self._foreground.signals.raise_received()
                listener.wait(_LOOK)
                view = living(self._store, self._name)
        finally:
            listener.close()
        return ""

    def _claimed(self, view: View) -> Link | None:
        """Take over from a lost owner; return None if another run has."""
        me = this_member()
        try:
            claimed = self._store.claim(view.environment, me)
        except StaleError:
            return None
        if claimed.owner is None or claimed.owner.id != me.id:
            return None
        joined = Joined(Role.MEMBER, Access(claimed.environment, me.id), claimed)
        is_local = self._settings.share == sharing.LOCAL
        link = Link(self._store, joined, claimed.project, me, is_local=is_local)
        link.owner = link.predecessor = str(view.owner or "a run that was lost")
        link.is_caretaker = True
        return link

    def _clean_up(self, link: Link) -> str:
        """Wait for the members, and clean up; return why something is left, or ""."""
        link.begin()
        try:
            is_clean = Caretaker(self._declared, self._foreground, link).take_care()
        finally:
            link.end()
        self._foreground.signals.raise_received()
        if link.trouble is not None:
            return link.trouble
        return "" if is_clean else f"{link.where} could not be cleaned up completely"

    def _end_joining(self) -> View | None:
        """Let nobody join any more; return the environment, or None if there is none."""
        while (view := living(self._store, self._name)) is not None:
            try:
                return self._store.end_joining(view.environment)
            except StaleError:
                continue  # it has another owner now, or was cleaned up
        return None


def _waiting(view: View) -> str:
    name, owner = view.environment.name, view.owner
    if view.status is Status.CLOSED:
        return f"{owner} cleans up {name!r}: waiting"
    if view.members:
        users = ", ".join(map(str, view.members))
        return f"waiting for the runs that still use {name!r}: {users}"
    return f"waiting for {owner}, the owner of {name!r}"
