"""The cleanup of a shared environment after its owner was lost, by a caretaker or an heir."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_plan.engine.environments.environment import FOLDER, JOURNAL, Environment, names
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import Recorded, RecordedStep, read
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.secret import KEY_VARIABLE
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.environments.recovery import Recovery, error_of
from pytest_plan.plugin.run.environments.sharing.rows import published
from pytest_plan.plugin.run.environments.takeover.closing import Closed, Closing, end
from pytest_plan.plugin.run.environments.takeover.guard import Guard
from pytest_plan.plugin.run.environments.takeover.published_journal import (
    PublishedJournal,
    Recovered,
)
from pytest_plan.plugin.run.environments.waiting import Waiting
from pytest_plan.sharing.errors import ShareError
from pytest_plan.sharing.model import Kind

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.journal.writing.transaction import Statement
    from pytest_plan.plugin.declaring.declared import DeclaredSteps
    from pytest_plan.plugin.main_thread.foreground import Foreground
    from pytest_plan.plugin.run.environments.sharing.link import Link

_BEGUN = (StepOutcome.RUNNING, StepOutcome.SUCCEEDED, StepOutcome.FAILED, StepOutcome.TIMED_OUT)
_PATIENCE = 10.0  # seconds until the reaper of a lost owner has seen that another run cleans up


class TakeoverRecovery(Recovery):
    """Cleans up the environment of a lost owner. Another run that takes over stops it.

    Args:
        declared: the steps of this process, which contain the code of the recorded steps.
        foreground: the main thread, on which cleanup runs.
        link: the part of this run in the environment, which it owns.
        parent: the folder that contains the environment.
        has_journal: whether the environment is the one of the lost owner, not a copy.
        is_read: whether the output of this process is read.
    """

    def __init__(
        self,
        declared: DeclaredSteps,
        foreground: Foreground,
        link: Link,
        *,
        parent: Path,
        has_journal: bool,
        is_read: bool = True,
    ) -> None:
        super().__init__(declared, foreground, kept=True, parent=parent, is_read=is_read)
        self._link = link
        self._published = PublishedJournal(link, launch.key_of(declared.config))
        self._guard = Guard(link, self._published, has_journal=has_journal)
        self._has_journal = has_journal
        self.can_go_on = has_journal  # whether a later run could clean up what this one leaves

    @property
    def is_alone(self) -> bool:
        """Whether the cleanup went on without the server."""
        return self._guard.is_alone

    def begins(self, environment: Environment, recorded: Recorded, gone: Mapping[str, str]) -> None:
        """Report that the cleanup begins."""
        self._gone = gone
        self.say(f"cleaning up {self._link.name!r}, which {self._link.predecessor} has left")

    def remains(self, environment: Environment, due: Collection[RecordedStep]) -> bool:
        """Return whether to keep the journal; report what is left of a copy, which is removed."""
        if self._has_journal:
            return super().remains(environment, due) or self._link.is_fenced
        if due:
            self.left.append(environment.name)
            self.can_go_on = any(step.can_be_cleaned for step in due)
        for step in due:
            self.say(f"{step.name} was not cleaned up: {error_of(step)}", bad=True)
        return False

    def _revive(self, restorer: Restorer, journal: Journal) -> Run:
        journal.guard = self._guard
        journal.mirror_to(self._mirror)
        return super()._revive(restorer, journal)

    def _mirror(self, statements: Collection[Statement]) -> None:
        with contextlib.suppress(ShareError):  # the guard notices it before the next call
            self._published.publish(list(statements))


class Caretaker:
    """Cleans up the environment of a lost owner that this run has claimed.

    Args:
        declared: the steps of this process.
        foreground: the main thread.
        link: the part of this run in the environment.
    """

    def __init__(self, declared: DeclaredSteps, foreground: Foreground, link: Link) -> None:
        self._is_over = True  # whether no later run could clean up anything that is left
        self._declared = declared
        self._foreground = foreground
        self._link = link
        self._key = launch.key_of(declared.config)

    def take_care(self) -> bool:
        """Wait for the other runs, and clean up; return whether nothing is left."""
        link = self._link
        ended = Closing(link, self._foreground).wait()
        if ended is not Closed.OURS:
            return ended is Closed.LEFT
        try:
            is_clean = self.clean_up()
            # What only the machine of the owner can undo is named once, and forgotten.
            end(link, is_clean=is_clean or self._is_over)
        except ShareError as error:
            link.fail(str(error))
            return False
        return is_clean

    def clean_up(self) -> bool:
        """Clean up; return whether nothing is left. What is left is reported.

        Raises:
            ShareError: the server is silent, or this run does not own the environment any more.
        """
        found = PublishedJournal(self._link, self._key).read()
        here = self._journals_here()
        if here or self._link.is_local:
            return all([self._clean_up_here(found, name) for name in reversed(here)])
        if found.unread:
            self._say_unread()
            self._is_over = False
            return False
        if not found.steps:
            return True  # the owner was lost before a step had begun
        name = str(found.facts.get("name", "lost"))
        with tempfile.TemporaryDirectory(prefix="plan-takeover-") as folder:
            parent = Path(folder, "plan")
            return self._attempt(
                lambda: found.rebuild(parent, name, self._key), parent, has_journal=False
            )

    def _journals_here(self) -> list[str]:
        """Return the environments of dead owners that are in `plan_dir`, oldest first."""
        parent, found = self._declared.settings.dir, []
        for name in names(parent):
            with contextlib.suppress(JournalError):
                recorded = read(parent / FOLDER / name / JOURNAL, self._key)
                shared = recorded.facts.get("shared") or {}
                is_living = recorded.owner is not None and recorded.owner.is_alive()
                if shared.get("id") == self._link.access.environment.id and not is_living:
                    found.append(name)
        return found

    def _clean_up_here(self, found: Recovered, name: str) -> bool:
        """Clean up from the journal of a dead owner that was on this machine."""
        parent = self._declared.settings.dir

        def claim() -> Environment:
            waiting = Waiting(parent, self._key, _PATIENCE, self._foreground)
            environment = waiting.claim(name)
            found.update(environment, self._key)
            return environment

        return self._attempt(claim, parent, has_journal=True)

    def _attempt(
        self, claim: Callable[[], Environment], parent: Path, *, has_journal: bool
    ) -> bool:
        recovery = TakeoverRecovery(
            self._declared, self._foreground, self._link, parent=parent, has_journal=has_journal
        )
        try:
            environment = claim()
            try:
                recorded = environment.recorded()
                if recorded is not None:
                    recovery.clean_up(environment, recorded)
            finally:
                environment.release()
            self._is_over = self._is_over and not (recovery.left and recovery.can_go_on)
        except JournalError as error:
            self._is_over = False
            self._foreground.say(f"{self._link.name!r} was not cleaned up: {error}", bad=True)
            return False
        return not recovery.left and not self._link.is_fenced

    def _say_unread(self) -> None:
        store, access = self._link.store, self._link.access
        steps = published(store.rows(access, Kind.OUTCOME))
        left = ", ".join(sorted(name for name, one in steps.items() if one.outcome in _BEGUN))
        self._foreground.say(
            f"the cleanup of {self._link.name!r} is left to the machine of "
            f"{self._link.predecessor}: {left or 'no step has ended'}; other runs can clean up if "
            f"{KEY_VARIABLE} is set to the same secret in all of them",
            bad=True,
        )
