"""The connection of a run to a shared environment, and a thread that keeps its lease."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import StateError
from pytest_plan.sharing.errors import ShareError, SilentError, StaleError
from pytest_plan.sharing.model import (
    ENVIRONMENT,
    Access,
    Joined,
    Kind,
    Member,
    News,
    Project,
    Role,
    View,
)
from pytest_plan.sharing.protocol import Listener, Store

__tracebackhide__ = True  # as in engine/shared/state.py
T = TypeVar("T")
_TICK = 0.2  # seconds between two looks of the thread
_LOCAL = 1.0  # seconds between two renewals where a process is alive as long as it holds a lock
_SHARE = 3  # renewals in a lease
_PATIENCE = 3  # leases of silence after which the owner does not wait for the server any more
ASK = "is the owner alive"  # the key of a notification to which the owner answers by a renewal
_ASKED = (Kind.NOTICE, ASK)


class Link:
    """The part of this run in a shared environment.

    If the owner is lost, the link of the member that notices it first claims the environment. That
    run is its caretaker from then on: it cleans up once no other member is left.

    Args:
        store: the store.
        joined: the answer to the request to join.
        project: the plan of this run.
        member: this process.
        is_local: whether the store is that of this machine, so that no lease can lapse in silence.

    Attributes:
        store: the store.
        project: the plan of this run.
        member: this process.
        access: the credentials for reads and writes.
        role: the role with which this run has joined.
        view: the environment, as it was last seen.
        owner: the owner that provisions the steps, as text for messages.
        predecessor: the owner that has provisioned what this run may have to clean up, as text.
        members: all members that this run has seen, by their ids, as text for messages.
        trouble: why the environment cannot be used any more; None if it can.
        lost: the message that the owner was lost, so that no further step is provisioned; None if
            it was not.
        is_caretaker: whether this run has claimed the environment of a lost owner.
        is_fenced: whether the store has refused this run as the owner or caretaker.
        changed: a condition that is notified of each change in the environment.
        is_leaving: whether this run needs the environment no more, so that no change is trouble.
        on_change: a function to call after each change, on the thread of the link.
        on_outcome: a function to call after steps may have got an outcome, on the same thread.
        on_news: a function to call with notifications, on the same thread.
        on_trouble: a function to call once there is trouble, on any thread.
    """

    def __init__(
        self, store: Store, joined: Joined, project: Project, member: Member, *, is_local: bool
    ) -> None:
        self.store = store
        self.project = project
        self.member = member
        self.access = joined.access
        self.role = joined.role
        self.view = joined.view
        was_lost = joined.role is Role.MEMBER and joined.view.is_caretaker
        self.owner = "a run that was lost" if was_lost else str(joined.view.owner or "another run")
        self.trouble: str | None = None
        self.predecessor = "a run that was lost" if joined.role is Role.HEIR else self.owner
        self.lost: str | None = "the owner was lost" if was_lost else None
        self.is_caretaker = False
        self.is_fenced = False
        self.changed = threading.Condition()
        self.is_local = is_local
        self.members = {one.id: str(one) for one in joined.view.members}
        self._interval = min(_LOCAL, joined.view.lease) if is_local else joined.view.lease / _SHARE
        self.is_leaving = False
        self._operations: collections.deque[Callable[[Store, Access], object]] = collections.deque()
        self._is_ended = False
        self._renewed = SystemClock.now()
        self._seeing = threading.RLock()  # held while the epoch of this run may change
        self._thread = threading.Thread(target=self._serve, name="plan-share", daemon=True)
        self.on_change: Callable[[], None] = lambda: None
        self.on_outcome: Callable[[], None] = lambda: None
        self.on_news: Callable[[News], None] = lambda news: None
        self.on_trouble: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        """The name of the environment."""
        return self.access.environment.name

    @property
    def where(self) -> str:
        """The environment and its server, as text for messages."""
        return f"the shared environment {self.name!r} on {self.store.server}"

    @property
    def is_owner(self) -> bool:
        """Whether this run provisions the steps and cleans them up."""
        return self.role is not Role.MEMBER

    @property
    def is_silent(self) -> bool:
        """Whether the server has not answered for a lease."""
        return SystemClock.now() >= self._renewed + self.view.lease

    @property
    def is_given_up(self) -> bool:
        """Whether the server has been silent for so long that nobody can say who cleans up."""
        return SystemClock.now() >= self._renewed + _PATIENCE * self.view.lease

    def begin(self) -> None:
        """Keep the lease from now on."""
        self._thread.start()

    def end(self) -> None:
        """End the thread, and close the connections. A second call does nothing."""
        self._is_ended = True
        if self._thread.is_alive():
            self._thread.join(2 * self.view.lease)
        self.store.shut()

    def call(self, operation: Callable[[Store, Access], T]) -> T:
        """Return the result of an operation, which a member repeats if there is a new owner.

        Raises:
            PlanError: as the operation.
        """
        known = self.access
        try:
            return operation(self.store, known)
        except StaleError as error:
            if self.is_owner or not _is_newer(error, known):
                raise
        except SilentError as error:
            if self.is_silent:
                self.fail(str(error))
            raise
        with self._seeing:
            if self.access == known:
                self.renew()
        return operation(self.store, self.access)

    def renew(self) -> View:
        """Renew the lease, and return the environment.

        Raises:
            ShareError: it cannot be renewed.
        """
        with self._seeing:
            begun = SystemClock.now()
            view = self.store.renew(self.access)
            self._renewed = begun
            self.see(view)
        return self.view

    def see(self, view: View) -> None:
        """Take note of the environment as it is now; claim it if its owner was lost.

        Raises:
            ShareError: it cannot be claimed.
        """
        with self._seeing:
            if not view.is_owner_alive and view.is_in_use and self._may_claim():
                view = self._claimed()
            is_new = view.environment.epoch > self.access.environment.epoch
            self.view = view
            self.members.update((one.id, str(one)) for one in view.members)
            if self._is_in_charge() or self.is_leaving or self.trouble is not None:
                if self._is_in_charge() and is_new:
                    self.fence(None)
                return
            self.access = self.access._replace(environment=view.environment)
            self.is_caretaker = view.owner is not None and view.owner.id == self.member.id
            if self.is_caretaker or view.is_caretaker:
                self.lost = self.lost or f"the owner {self.owner} was lost"
            if not view.is_in_use:
                self.fail(f"the owner {self.owner} has begun to clean it up")

    def take_over(self) -> bool:
        """Claim the environment if its owner was lost; return whether this run is its caretaker.

        Raises:
            ShareError: it cannot be claimed.
        """
        with self._seeing:
            self.is_leaving = False
            self.renew()
        return self.is_caretaker

    def fail(self, why: str) -> None:
        """Note that the environment cannot be used any more; only the first reason counts."""
        if self.trouble is None:
            is_about_server = self.store.server in why
            where = f"the shared environment {self.name!r}" if is_about_server else self.where
            self.trouble = why if why.startswith(where) else f"{where}: {why}"
            self.on_trouble()

    def fence(self, error: StaleError | None) -> None:
        """Note that this run cleans up no more.

        Args:
            error: the refusal of the store; None if it has shown that there is another owner.
        """
        self.is_fenced = True
        if error is None or error.current is not None:
            self.fail("it has another owner now, because this run did not renew its lease in time")
        else:
            self.fail(str(error))

    def soon(self, operation: Callable[[Store, Access], object]) -> None:
        """Let the thread of the link perform an operation, whose result nobody waits for.

        A caller that holds a lock of the engine must not wait for a server.
        """
        self._operations.append(operation)

    def wait(self, is_over: Callable[[], bool], say: Callable[[], None]) -> None:
        """Wait on the main thread.

        Args:
            is_over: returns whether to wait no longer; it is asked after each change, and often.
            say: a function to call again and again, which may write a line.
        """
        while not is_over():
            say()
            with self.changed:
                self.changed.wait(_TICK)

    def _is_in_charge(self) -> bool:
        return self.is_owner or self.is_caretaker

    def _may_claim(self) -> bool:
        return not (self._is_in_charge() or self.is_leaving or self.trouble is not None)

    def _claimed(self) -> View:
        """Claim the environment, unless another run has; return it as it is then."""
        try:
            return self.store.claim(self.access.environment, self.member)
        except StaleError as error:
            if not _is_newer(error, self.access):
                raise
            return self.store.renew(self.access)

    def _serve(self) -> None:
        listener: Listener | None = None
        try:
            while not self._is_ended:
                try:
                    listener = listener or self.store.listen(self.name)
                    while self._operations:
                        with contextlib.suppress(StateError):  # a lock was lost meanwhile
                            self.call(self._operations[0])
                        self._operations.popleft()
                    self._look(listener.wait(_TICK))
                except StaleError as error:
                    if not self.is_leaving:
                        self._lose(error)
                        self._tell()
                    return
                except ShareError as error:
                    self._note(error)
        finally:
            if listener is not None:
                with contextlib.suppress(Exception):
                    listener.close()

    def _lose(self, error: StaleError) -> None:
        if self._is_in_charge():
            self.fence(error)
        else:
            self.fail(str(error))

    def _look(self, news: News | None) -> None:
        is_asked = (
            news is not None
            and self._is_in_charge()
            and (news.is_everything or _ASKED in news.keys)
        )
        if is_asked or SystemClock.now() >= self._renewed + self._interval:
            known = self.trouble, self.lost
            self.renew()
            if known != (self.trouble, self.lost):
                self._tell()
        elif news is not None and (news.is_everything or ENVIRONMENT in news.keys):
            view = self.store.view(self.name)
            if view is not None and view.environment.id == self.access.environment.id:
                self.see(view)
        if news is not None:
            if news.is_everything or any(kind is Kind.OUTCOME for kind, _ in news.keys):
                self.on_outcome()
            self.on_news(news)
            self._tell()

    def _tell(self) -> None:
        with self.changed:
            self.changed.notify_all()
        self.on_change()

    def _note(self, error: ShareError) -> None:
        """Note an error, unless the server has been silent for less than a lease."""
        is_short = SystemClock.now() - self._renewed < self.view.lease
        if not self.is_leaving and not (isinstance(error, SilentError) and is_short):
            self.fail(str(error))
            self._tell()
        SystemClock.sleep(_TICK)


def _is_newer(error: StaleError, known: Access) -> bool:
    """Return whether the environment has had another owner since this run looked."""
    current, environment = error.current, known.environment
    return current is not None and current.id == environment.id and current != environment
