"""The end of an owner, or of its reaper, that must not clean up: another run does."""

from __future__ import annotations

import contextlib
import enum
from typing import TYPE_CHECKING

from pytest_plan.engine.environments.environment import Environment
from pytest_plan.engine.environments.recovery import end_programs
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.shared.folders import remove_tree
from pytest_plan.plugin.main_thread.heartbeat import Heartbeat
from pytest_plan.plugin.run.environments.recovery import scratch_of
from pytest_plan.sharing.errors import ShareError
from pytest_plan.sharing.model import Status

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_plan.engine.journal.seal import Key
    from pytest_plan.plugin.main_thread.foreground import Foreground
    from pytest_plan.plugin.run.environments.sharing.link import Link

_SIGNALS_TO_LEAVE = 2


class Elsewhere(enum.Enum):
    """How the cleanup by another run has ended.

    Attributes:
        DONE: the environment is cleaned up.
        LATE: nobody cleans it up, or not within the limit.
        LEFT: a second signal has ended the wait.
        LOST: nobody owns it now, so that it can be claimed.
    """

    DONE = enum.auto()
    LATE = enum.auto()
    LEFT = enum.auto()
    LOST = enum.auto()


def wait(link: Link, foreground: Foreground, limit: float) -> Elsewhere:
    """Wait until another run has cleaned up the environment.

    Args:
        link: the part of this run in the environment.
        foreground: the main thread.
        limit: the maximum number of seconds from the beginning of that cleanup, or of a silence of
            the server.
    """
    ended: list[Elsewhere] = []
    until: list[float] = []

    def is_over() -> bool:
        if len(foreground.signals.received) >= _SIGNALS_TO_LEAVE:
            ended.append(Elsewhere.LEFT)
            return True
        found = _state(link)
        if isinstance(found, Elsewhere):
            ended.append(found)
        elif found:
            until.clear()
        elif not until:
            until.append(SystemClock.now() + limit)
        elif SystemClock.now() >= until[0]:
            ended.append(Elsewhere.LATE)
        return bool(ended)

    say = Heartbeat(foreground, lambda: f"waiting until another run has cleaned up {link.name!r}")
    link.wait(is_over, say)
    return ended[-1]


def _state(link: Link) -> Elsewhere | bool:
    """Return how it has ended, or else whether other runs still use the environment."""
    try:
        view = link.store.view(link.name)
    except ShareError:
        return False
    if view is None:
        return Elsewhere.LATE  # the server has lost its data
    if view.environment.id != link.access.environment.id or view.status is Status.DONE:
        return Elsewhere.DONE
    if not view.is_owner_alive and not view.members:
        return Elsewhere.LOST
    return view.is_in_use


def end_released(journal: Path, key: Key, found: Elsewhere) -> str:
    """End what the run of this process has on its machine, after it has released its environment.

    Args:
        journal: the journal of the run, which stays unless the environment is cleaned up.
        key: the key that seals it.
        found: how the cleanup by another run has ended.

    Returns:
        What was ended and removed, as the end of a sentence.
    """
    try:
        environment = Environment(journal.parents[2], journal.parent.name, key)
    except JournalError as error:
        return f"could not end its processes: {error}"
    done = end_own(environment)
    environment.release(remove=found is Elsewhere.DONE)
    left = "" if found is Elsewhere.DONE else "; nobody has cleaned up: pytest --plan-cleanup"
    return f"{', '.join(done) or 'had nothing on this machine'}{left}"


def end_own(environment: Environment) -> list[str]:
    """End the processes and remove the folders of an environment, without any code of its steps.

    Args:
        environment: the environment, which this process owns.

    Returns:
        What was ended and removed, as text.
    """
    done = []
    try:
        recorded = environment.recorded()
    except JournalError as error:
        return [f"nothing, because {error}"]
    if recorded is None:
        return []
    for step in reversed(list(recorded.steps.values())):
        with contextlib.suppress(TimeoutError):
            done += [f"ended {one}" for one in end_programs(step)]
    if (scratch := scratch_of(recorded)) is not None:
        left = remove_tree(scratch)
        done += left or [f"removed {scratch}"]
    return done
