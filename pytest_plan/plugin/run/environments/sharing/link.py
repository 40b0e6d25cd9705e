"""The connection of a run to a shared environment, and a thread that keeps its lease."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.sharing.errors import ShareError, SilentError, StaleError
from pytest_plan.sharing.model import ENVIRONMENT, Joined, Kind, News, Project, Role, Status, View
from pytest_plan.sharing.protocol import Listener, Store

_TICK = 0.2  # seconds between two looks of the thread
_LOCAL = 1.0  # seconds between two renewals where a process is alive as long as it holds a lock
_SHARE = 3  # renewals in a lease
ASK = "is the owner alive"  # the key of a notification to which the owner answers by a renewal
_ASKED = (Kind.NOTICE, ASK)


class Link:
    """The part of this run in a shared environment.

    Args:
        store: the store.
        joined: the answer to the request to join.
        project: the plan of this run.
        is_local: whether the store is that of this machine, so that no lease can lapse in silence.

    Attributes:
        store: the store.
        project: the plan of this run.
        access: the credentials for reads and writes.
        role: the role of this run.
        view: the environment, as it was last seen.
        owner: the owner, as text for messages.
        members: all members that this run has seen, by their ids, as text for messages.
        trouble: why the environment cannot be used any more; None if it can.
        changed: a condition that is notified of each change in the environment.
        is_leaving: whether this run needs the environment no more, so that no change is trouble.
        on_change: a function to call after each change, on the thread of the link.
        on_outcome: a function to call after steps may have got an outcome, on the same thread.
        on_news: a function to call with notifications, on the same thread.
        on_trouble: a function to call once there is trouble, on any thread.
    """

    def __init__(self, store: Store, joined: Joined, project: Project, *, is_local: bool) -> None:
        self.store = store
        self.project = project
        self.access = joined.access
        self.role = joined.role
        self.view = joined.view
        self.owner = str(joined.view.owner or "an unknown run")
        self.trouble: str | None = None
        self.changed = threading.Condition()
        self.is_local = is_local
        self.members = {one.id: str(one) for one in joined.view.members}
        self._interval = min(_LOCAL, joined.view.lease) if is_local else joined.view.lease / _SHARE
        self.is_leaving = False
        self._is_ended = False
        self._renewed = SystemClock.now()
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
    def is_owner(self) -> bool:
        """Whether this run provisions the steps and cleans them up."""
        return self.role is not Role.MEMBER

    def begin(self) -> None:
        """Keep the lease from now on."""
        self._thread.start()

    def end(self) -> None:
        """End the thread, and close the connections. A second call does nothing."""
        self._is_ended = True
        if self._thread.is_alive():
            self._thread.join(2 * self.view.lease)
        self.store.shut()

    def renew(self) -> View:
        """Renew the lease, and return the environment.

        Raises:
            ShareError: it cannot be renewed.
        """
        self.see(self.store.renew(self.access))
        self._renewed = SystemClock.now()
        return self.view

    def see(self, view: View) -> None:
        """Take note of the environment as it is now."""
        self.view = view
        self.members.update((one.id, str(one)) for one in view.members)
        self.access = self.access._replace(environment=view.environment)
        if self.is_owner or self.is_leaving or self.trouble is not None:
            return
        if not view.is_owner_alive:
            self.fail(f"the owner {self.owner} was lost")
        elif view.is_caretaker or view.status is not Status.OPEN:
            self.fail(f"the owner {self.owner} has begun to clean it up")

    def fail(self, why: str) -> None:
        """Note that the environment cannot be used any more; only the first reason counts."""
        if self.trouble is None:
            where = f"the shared environment {self.name!r} on {self.store.server}"
            self.trouble = why if why.startswith(where) else f"{where}: {why}"
            self.on_trouble()

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

    def _serve(self) -> None:
        listener: Listener | None = None
        try:
            while not self._is_ended:
                try:
                    listener = listener or self.store.listen(self.name)
                    self._look(listener.wait(_TICK))
                except StaleError as error:
                    if not self.is_leaving:
                        self.fail(str(error))
                        self._tell()
                    return
                except ShareError as error:
                    self._note(error)
        finally:
            if listener is not None:
                with contextlib.suppress(Exception):
                    listener.close()

    def _look(self, news: News | None) -> None:
        is_asked = (
            news is not None and self.is_owner and (news.is_everything or _ASKED in news.keys)
        )
        if is_asked or SystemClock.now() >= self._renewed + self._interval:
            was_in_trouble = self.trouble is not None
            self.renew()
            if self.trouble is not None and not was_in_trouble:
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
