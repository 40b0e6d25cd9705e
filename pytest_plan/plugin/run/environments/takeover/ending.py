"""The end of a run that shares its environment: which process cleans up, and which must not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.model.errors import StateError
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.environments.shared_logs import LogPublisher
from pytest_plan.plugin.run.environments.sharing.link import Link
from pytest_plan.plugin.run.environments.sharing.member import MemberPart
from pytest_plan.plugin.run.environments.sharing.owner import OwnerPart
from pytest_plan.plugin.run.environments.sharing.state import EnvironmentStore
from pytest_plan.plugin.run.environments.takeover import fenced
from pytest_plan.plugin.run.environments.takeover.closing import Closed
from pytest_plan.plugin.run.environments.takeover.fenced import Elsewhere
from pytest_plan.plugin.run.host import Host
from pytest_plan.sharing.errors import ShareError

if TYPE_CHECKING:
    from pytest_plan.plugin.declaring.declared import DeclaredSteps
    from pytest_plan.plugin.items.handle import PlanHandle


class SharedEnding(Host):
    """Cleans up for all runs, leaves that to others, or takes it over from a lost owner."""

    def __init__(
        self, declared: DeclaredSteps, handle: PlanHandle, load_listeners: Callable[[], None]
    ) -> None:
        super().__init__(declared, handle, load_listeners)
        self._link: Link | None = None
        self._owner: OwnerPart | None = None
        self._logs: LogPublisher | None = None
        self._member: MemberPart | None = None
        self._has_said = False
        self._has_said_loss = False
        self._is_left = False  # another process cleans up
        self._fate = ""  # what has become of the environment, for the message about the trouble
        self._has_left = False  # something of a lost owner could not be cleaned up

    @property
    def link(self) -> Link:
        """The part of this run in the environment, which it must have joined."""
        assert self._link is not None
        return self._link

    def clean_up(self, *, failed: bool = False) -> None:
        """Clean up as the owner, once no other run needs the environment; leave it as a member.

        Args:
            failed: whether tests have failed.
        """
        if self._link is None or not self.is_open:
            super().clean_up(failed=failed)
            return
        if self._owner is not None:
            self._clean_up_as_owner(self._owner, failed=failed)
        else:
            self._leave(failed=failed)
        self._say_trouble()
        self.link.end()

    def has_failed(self) -> bool:
        """Return whether a step or cleanup failed, or the environment was lost."""
        is_lost = self._link is not None and self._link.trouble is not None
        return is_lost or self._has_left or super().has_failed()

    def _inherit(self, link: Link) -> None:
        """Clean up what a lost owner has left, and open the environment for this run.

        Raises:
            pytest.UsageError: the environment was lost meanwhile.
        """
        from pytest_plan.plugin.run.environments.takeover.caretaker import Caretaker

        try:
            is_clean = Caretaker(self._declared, self.foreground, link).clean_up()
            self._has_left = not is_clean
            link.see(link.store.restart(link.access, link.project))
        except ShareError as error:
            raise pytest.UsageError(str(error)) from None

    def _give_up(self, link: Link) -> None:
        """Leave the environment, because the run could not begin."""
        if self._run is not None:
            super().clean_up(failed=True)
        link.is_leaving = True
        with contextlib.suppress(ShareError, StateError):
            link.store.leave(link.access, failed=True)
        link.end()

    def _clean_up_as_owner(self, owner: OwnerPart, *, failed: bool) -> None:
        self.run.clock.hold()  # the limit is that of this run's own tests
        with self.foreground.owned():
            ended = owner.wait(self.run, self._declared.settings.share_wait)
        self.run.clock.release()
        if ended is Closed.LEFT:
            self._leave_to_reaper(failed=failed)
            return
        if ended is Closed.FENCED:
            self._end_as_fenced(failed=failed)
            return
        store = self.run.facts.store
        assert isinstance(store, EnvironmentStore)
        self.run.journal.guard = guard = owner.guard(store.disconnect)
        if ended is Closed.SILENT:
            guard.go_alone()
        super().clean_up(failed=failed or self.link.view.failures > 0)
        self._end_logs()
        if guard.is_alone:
            self._fate = "; cleaned up without the server: other runs may have been testing"
        if self.link.is_fenced:
            self._end_own(self._await_other(), "this run has ended its cleanup early, and")
            return
        is_left = self.run.cleanup_error() is not None or bool(self.run.result().left)
        owner.finish(is_clean=not is_left and not self.run.was_left)

    def _leave_to_reaper(self, *, failed: bool) -> None:
        """End without any cleanup, because another process performs it."""
        self._is_left = True
        self._end_logs()
        environment = self._environment
        assert environment is not None
        if not environment.watch.leave():
            with contextlib.suppress(ShareError):
                self.link.store.leave(self.link.access, failed=failed)
        super().clean_up(failed=failed)
        self.foreground.say(
            f"a second signal has ended the wait: {self.link.name!r} is left to another process",
            bad=True,
        )

    def _end_as_fenced(self, *, failed: bool) -> None:
        """Wait until another run has cleaned up, then end what this run has on its machine."""
        self._end_logs()
        found = self._await_other()
        self._is_left = True
        environment = self._environment
        assert environment is not None
        environment.watch.leave()
        super().clean_up(failed=failed)
        if found is not Elsewhere.LEFT:
            self._end_own(found, "this run has cleaned up nothing, but it")
            environment.watch.end(is_done=True)

    def _await_other(self) -> Elsewhere:
        """Wait until another run has cleaned up."""
        limit = self._declared.definition.options.cleanup_limit
        with self.foreground.owned():
            return fenced.wait(self.link, self.foreground, limit)

    def _end_own(self, found: Elsewhere, what: str) -> None:
        """End what this run has on its machine, after it has released its own environment."""
        journal = self.run.journal
        assert isinstance(journal, Journal)
        done = fenced.end_released(journal.file, launch.key_of(self._config), found)
        self._fate = f"; {what} {done}"

    def _end_logs(self) -> None:
        if self._logs is not None:
            self._logs.end()

    def _to_keep(self, *, failed: bool) -> Collection[str]:
        """Return the steps to leave as they are: all of them if another process cleans up."""
        return list(self.run.step_runs) if self._is_left else super()._to_keep(failed=failed)

    def _leave(self, *, failed: bool) -> None:
        assert self._member is not None
        self._member.look_after_owner()  # reports have the result
        super().clean_up(failed=failed)
        with self.foreground.owned():
            self._member.leave(failed=failed)
            if self.link.is_caretaker and self.link.trouble is None:
                self._take_care()

    def _take_care(self) -> None:
        """Clean up the environment of a lost owner, once no other run needs it."""
        from pytest_plan.plugin.run.environments.takeover.caretaker import Caretaker

        self._say_trouble()
        caretaker = Caretaker(self._declared, self.foreground, self.link)
        self._has_left = not caretaker.take_care()

    def _say_trouble(self) -> None:
        link = self.link
        if link.lost is not None and not self._has_said_loss:
            self._has_said_loss = True
            who = "this run" if link.is_caretaker else "another run"
            self.foreground.say(f"{link.lost}: {who} cleans up once no run uses {link.name!r}")
        if link.trouble is not None and (not self._has_said or self._fate):
            self._has_said = True
            self.foreground.say(f"{link.trouble}{self._fate}", bad=True)
            self._fate = ""
