"""Stops a cleanup as soon as another run has taken over the environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import PlanError
from pytest_plan.sharing.errors import ShareError, StaleError

if TYPE_CHECKING:
    from pytest_plan.plugin.run.environments.sharing.link import Link
    from pytest_plan.plugin.run.environments.takeover.published_journal import PublishedJournal

_PAUSE = 0.1  # seconds between two attempts while the server is silent


class CleanupRefusedError(PlanError):
    """This process may not clean up any more, so it has not made a call of a cleanup."""


class Guard:
    """Publishes, before each call of a cleanup, that the cleanup of its step has begun.

    Args:
        link: the part of this run in the environment.
        journal: the published journal.
        has_journal: whether this process has the journal of the run that has provisioned the
            steps. It then goes on without the server, once that has been silent for three leases.
        on_alone: a function to call before it goes on without the server.

    Attributes:
        is_alone: whether the cleanup goes on without the server.
    """

    def __init__(
        self,
        link: Link,
        journal: PublishedJournal,
        *,
        has_journal: bool,
        on_alone: Callable[[], None] = lambda: None,
    ) -> None:
        self._link = link
        self._journal = journal
        self._has_journal = has_journal
        self._on_alone = on_alone
        self.is_alone = False

    def go_alone(self) -> None:
        """Go on without the server."""
        self._on_alone()
        self.is_alone = True

    def __call__(self, step: str) -> None:
        """Allow one call of the cleanup of a step.

        Raises:
            CleanupRefusedError: another run has taken over, or the server is silent.
        """
        link = self._link
        while not self.is_alone:
            if link.is_fenced:
                raise CleanupRefusedError(f"{link.trouble}; it cleans up from now on")
            try:
                self._journal.publish_cleaning(step)
            except StaleError as error:
                link.fence(error)
            except ShareError as error:
                self._wait(error)
            else:
                return

    def _wait(self, error: ShareError) -> None:
        """Wait until the server may answer again; after three leases, go on alone or not at all."""
        if not self._link.is_given_up:
            SystemClock.sleep(_PAUSE)
            return
        self._link.fail(str(error))
        if not self._has_journal:
            raise CleanupRefusedError(str(error)) from None
        self.go_alone()
