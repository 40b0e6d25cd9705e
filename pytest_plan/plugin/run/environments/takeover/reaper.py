"""What the reaper of a dead owner does: it takes over the environment, unless another run has."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pytest_plan.engine.environments.environment import BusyError, Environment, names
from pytest_plan.engine.environments.reap import SHARED, end_trees
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.environments.recovery import Recovery
from pytest_plan.plugin.run.environments.sharing.joining import this_member
from pytest_plan.plugin.run.environments.sharing.link import Link
from pytest_plan.plugin.run.environments.takeover import fenced
from pytest_plan.plugin.run.environments.takeover.caretaker import TakeoverRecovery
from pytest_plan.plugin.run.environments.takeover.closing import Closed, Closing, end
from pytest_plan.plugin.run.environments.takeover.fenced import Elsewhere
from pytest_plan.plugin.run.environments.takeover.published_journal import PublishedJournal
from pytest_plan.sharing.errors import ShareError, StaleError
from pytest_plan.sharing.model import Access, EnvironmentId, Joined, Role
from pytest_plan.sharing.urls import open_store

if TYPE_CHECKING:
    from pytest_plan.plugin.declaring.declared import DeclaredSteps
    from pytest_plan.plugin.main_thread.foreground import Foreground
    from pytest_plan.sharing.protocol import Store

_LEASES = 3  # of silence, after which the reaper cleans up without the server
_LONGEST = 10.0  # seconds for which a call is repeated while the server does not answer
_PAUSE = 0.2


class DeadOwner(NamedTuple):
    """What the reaper knows of its owner's part in a shared environment.

    Attributes:
        url: the URL of the server.
        name: the name of the environment.
        id: its random id.
        epoch: the epoch in which the owner owns it.
        member: the id of the owner.
        owner: the owner, as text for messages.
        lease: the length of a lease, in seconds.
        environment: the name of the owner's own environment, which has the journal.
    """

    url: str
    name: str
    id: str
    epoch: int
    member: str
    owner: str
    lease: float
    environment: str


def variables(link: Link, url: str, environment: str) -> dict[str, str]:
    """Return the environment variables for the reaper of an owner: no process lists show them.

    Args:
        link: the part of the owner in the shared environment.
        url: the URL of the server.
        environment: the name of the owner's own environment.
    """
    shared, lease = link.access.environment, link.view.lease
    owner = DeadOwner(url, *shared, link.member.id, link.owner, lease, environment)
    return {SHARED: json.dumps(owner)}


class Takeover:
    """The end of the environment of a dead owner, on the owner's machine.

    Args:
        text: the variable with what the reaper knows of the owner.
        declared: the steps of this process.
        foreground: the main thread.
    """

    def __init__(self, text: str, declared: DeclaredSteps, foreground: Foreground) -> None:
        self._owner = DeadOwner(*json.loads(text))
        self._declared = declared
        self._foreground = foreground
        self._parent = declared.settings.dir
        self._key = launch.key_of(declared.config)
        self._access = Access(
            EnvironmentId(self._owner.name, self._owner.id, self._owner.epoch), self._owner.member
        )

    def run(self) -> bool:
        """Clean up, or let another run do so; return whether nothing is left here."""
        if self._owner.environment not in names(self._parent):
            return True
        try:
            with contextlib.closing(_Claimed(self._claim())) as claimed:
                return self._end(claimed)
        except BusyError:
            return True  # another run cleans it up
        except JournalError as error:
            self._foreground.say(str(error), bad=True)
            return False

    def _claim(self) -> Environment:
        return Environment(self._parent, self._owner.environment, self._key)

    def _end(self, claimed: _Claimed) -> bool:
        while True:
            link = self._joined()
            if link is None:
                return self._clean_up_alone(claimed.environment)
            if isinstance(link, Elsewhere):
                return self._end_own(claimed, link)
            try:
                found = self._take_care(link, claimed)
            finally:
                link.end()
            if found is not None:
                return found

    def _joined(self) -> Link | Elsewhere | None:
        """Return the part of this process in the environment; None if the server is silent.

        Return how it has ended if the server does not know it any more.
        """
        until = SystemClock.now() + _LEASES * self._owner.lease
        while True:
            try:
                patience = min(_LONGEST, self._owner.lease)
                return self._linked(open_store(self._owner.url, self._parent, patience=patience))
            except ShareError:
                if SystemClock.now() >= until:
                    return None
            SystemClock.sleep(_PAUSE)

    def _linked(self, store: Store) -> Link | Elsewhere:
        """Claim the environment unless another run has."""
        me, is_ours = this_member(), False
        view = store.view(self._owner.name)
        if view is None:
            store.shut()
            return Elsewhere.LATE
        with contextlib.suppress(StaleError):
            current = self._access.environment
            if view.environment.id == current.id and view.environment.epoch == current.epoch:
                store.leave(self._access, failed=True)
            if view.environment.id == current.id and (
                view.environment.epoch == current.epoch or not view.is_owner_alive
            ):
                view = store.claim(view.environment, me)
            is_ours = view.owner is not None and view.owner.id == me.id
        environment = view.environment if is_ours else self._access.environment
        joined = Joined(Role.MEMBER, Access(environment, me.id), view)
        link = Link(store, joined, view.project, me, is_local=self._owner.url == "local")
        link.predecessor, link.is_caretaker, link.is_fenced = (
            self._owner.owner,
            is_ours,
            not is_ours,
        )
        return link

    def _take_care(self, link: Link, claimed: _Claimed) -> bool | None:
        """Return whether nothing is left; None to claim the environment again."""
        ended = Closed.FENCED
        if link.is_caretaker:
            link.begin()
            ended = Closing(link, self._foreground).wait()
        if ended is Closed.SILENT:
            return self._clean_up_alone(claimed.environment)
        if ended is Closed.LEFT:
            return False
        is_clean = ended is Closed.OURS and self._clean_up(link, claimed.environment)
        return self._let_clean(link, claimed) if link.is_fenced else is_clean

    def _let_clean(self, link: Link, claimed: _Claimed) -> bool | None:
        """Let another run clean up, and end what is on this machine; return as `_take_care`."""
        claimed.environment.release()  # another run on this machine may clean up from its journal
        limit = self._declared.definition.options.cleanup_limit
        found = fenced.wait(link, self._foreground, limit)
        if found is Elsewhere.LOST:
            claimed.claim(self._claim)
            return None
        if found is Elsewhere.LEFT or self._owner.environment not in names(self._parent):
            return found is not Elsewhere.LEFT
        return self._end_own(claimed, found)

    def _end_own(self, claimed: _Claimed, found: Elsewhere) -> bool:
        """End what is on this machine, without any code of steps."""
        claimed.claim(self._claim)
        for what in fenced.end_own(claimed.environment):
            self._foreground.say(what)
        claimed.environment.release(remove=found is Elsewhere.DONE)
        return True

    def _clean_up(self, link: Link, environment: Environment) -> bool:
        recovery = TakeoverRecovery(
            self._declared, self._foreground, link,
            parent=self._parent, has_journal=True, is_read=False,
        )  # fmt: skip
        with contextlib.suppress(ShareError):  # then the values are those of the owner
            PublishedJournal(link, self._key).read().update(environment, self._key)
        self._recover(recovery, environment)
        is_clean = not recovery.left and not link.is_fenced
        if recovery.is_alone:
            self._say_alone()
        elif not link.is_fenced:
            try:
                end(link, is_clean=is_clean)
            except StaleError as error:
                link.fence(error)
            except ShareError as error:
                self._foreground.say(str(error), bad=True)
        return is_clean

    def _clean_up_alone(self, environment: Environment) -> bool:
        recovery = Recovery(self._declared, self._foreground, is_read=False)
        self._recover(recovery, environment)
        self._say_alone()
        return not recovery.left

    def _recover(self, recovery: Recovery, environment: Environment) -> None:
        recorded = environment.recorded()
        if recorded is not None and not recorded.is_kept:
            end_trees(recorded)
            recovery.clean_up(environment, recorded)

    def _say_alone(self) -> None:
        self._foreground.say(
            f"{self._owner.name!r} was cleaned up without the server: other runs may have been "
            "testing",
            bad=True,
        )


class _Claimed:
    """The environment that this process owns at the moment."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def claim(self, claim: Callable[[], Environment]) -> None:
        """Claim it again if it was released."""
        self.environment.release()
        self.environment = claim()

    def close(self) -> None:
        """Release it."""
        self.environment.release()
