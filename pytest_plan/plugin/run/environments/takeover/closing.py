"""Waits until no other run needs a shared environment, and begins its cleanup."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.plugin.main_thread.heartbeat import Heartbeat
from pytest_plan.sharing.errors import ShareError, StaleError
from pytest_plan.sharing.model import Status

if TYPE_CHECKING:
    from pytest_plan.plugin.main_thread.foreground import Foreground
    from pytest_plan.plugin.run.environments.sharing.link import Link

_MOST_NAMED = 4  # members that a line names
_SIGNALS_TO_LEAVE = 2


class Closed(enum.Enum):
    """How a wait for the other runs has ended.

    Attributes:
        OURS: the cleanup has begun, and this process performs it.
        LEFT: a second signal has ended the wait; another process is to clean up.
        FENCED: another run has taken over, or the server does not know the environment.
        SILENT: the server has been silent for three leases.
    """

    OURS = enum.auto()
    LEFT = enum.auto()
    FENCED = enum.auto()
    SILENT = enum.auto()


class Closing:
    """The end of an environment, as seen by its owner or its caretaker.

    Args:
        link: the part of this run in the environment.
        foreground: the main thread.
        look: a function to call during the wait; it looks after what this run still has.
    """

    def __init__(
        self, link: Link, foreground: Foreground, look: Callable[[], None] = lambda: None
    ) -> None:
        self._link = link
        self._foreground = foreground
        self._look = look
        self._ended: Closed | None = None

    def wait(self, longest: float | None = None) -> Closed:
        """Wait for the members, and begin the cleanup; return how that has ended.

        Args:
            longest: the seconds after which the members that are left are not waited for any
                more; None means no limit.
        """
        link, begun = self._link, SystemClock.now()

        def is_over() -> bool:
            self._look()
            is_late = longest is not None and SystemClock.now() >= begun + longest
            self._ended = self._state(anyway=is_late)
            return self._ended is not None

        def waiting() -> str:
            if link.is_silent:
                return f"{link.where} does not answer: cleanup waits for it"
            left = "" if longest is None else f" for at most {format_duration(longest)}"
            return f"{self._missing()}: cleanup waits{left}"

        link.wait(is_over, Heartbeat(self._foreground, waiting))
        assert self._ended is not None
        left = len(link.view.members)
        if self._ended is Closed.OURS and left:
            self._foreground.say(
                f"cleanup begins although {_use(left)} {link.name!r}: their tests that have not "
                "begun are blocked",
                bad=True,
            )
        return self._ended

    def _state(self, *, anyway: bool) -> Closed | None:
        """Begin the cleanup, unless somebody has to be waited for; return None if so."""
        link = self._link
        if len(self._foreground.signals.received) >= _SIGNALS_TO_LEAVE:
            return Closed.LEFT
        try:
            if not link.is_fenced:
                self._close(anyway=anyway)
        except StaleError as error:
            link.fence(error)
        except ShareError as error:
            if link.is_given_up:
                link.fail(str(error))
                return Closed.SILENT
        if link.is_fenced:
            return Closed.FENCED
        return None if link.view.is_in_use else Closed.OURS

    def _close(self, *, anyway: bool) -> None:
        link = self._link
        view = link.store.view(link.name)
        if view is not None and view.environment.id == link.view.environment.id:
            link.see(view)
        if self._is_expecting() and self._foreground.signals.received:
            # Jobs of a pipeline that was cancelled may never come. Those that do begin it again.
            link.see(link.store.end_joining(link.access.environment))
        is_needed = bool(link.view.members) or self._is_expecting()
        if not link.is_fenced and (anyway or not is_needed):
            link.see(link.store.close(link.access, anyway=anyway))

    def _is_expecting(self) -> bool:
        view = self._link.view
        is_open = view.status is Status.OPEN and not self._link.is_caretaker
        return is_open and view.joins < view.runs

    def _missing(self) -> str:
        view = self._link.view
        joined = f"{view.joins} of {view.runs} runs have joined"
        names = [str(one) for one in view.members]
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        if names:
            users = f"{', '.join(names[:_MOST_NAMED])}{more}"
            expecting = f"; {joined}" if self._is_expecting() else ""
            return f"{_use(len(names))} {self._link.name!r}: {users}{expecting}"
        return f"{joined} {self._link.name!r}"


def end(link: Link, *, is_clean: bool) -> None:
    """End a closed environment; leave it to others if something could not be undone.

    Args:
        link: the part of this run in the environment, which it owns.
        is_clean: whether everything was undone.

    Raises:
        ShareError: the server is silent, or this run does not own the environment any more.
    """
    link.is_leaving = True  # once it is done, no renewal is accepted
    if is_clean:
        link.store.done(link.access)
    else:
        link.store.leave(link.access, failed=True)


def _use(runs: int) -> str:
    return "1 other run still uses" if runs == 1 else f"{runs} other runs still use"
