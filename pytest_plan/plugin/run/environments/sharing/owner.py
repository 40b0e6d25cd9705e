"""The owner of a shared environment: it publishes what its steps do, and waits for the members."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.model.events import Event, StepFinished, StepLost, StepStarted
from pytest_plan.engine.processes.addresses import network
from pytest_plan.plugin.run.environments.sharing.rows import (
    Decided,
    decided_row,
    outcome_row,
    running_row,
    variable_rows,
)
from pytest_plan.plugin.run.environments.takeover.closing import Closed, Closing, end
from pytest_plan.plugin.run.environments.takeover.guard import Guard
from pytest_plan.plugin.run.environments.takeover.published_journal import PublishedJournal
from pytest_plan.sharing.errors import ShareError, StaleError
from pytest_plan.sharing.model import Row

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.journal.journal import Journal
    from pytest_plan.engine.journal.seal import Key
    from pytest_plan.engine.journal.writing.transaction import Statement
    from pytest_plan.plugin.main_thread.foreground import Foreground
    from pytest_plan.plugin.run.environments.sharing.link import Link
    from pytest_plan.plugin.run.environments.sharing.trust.secrets import Vault


class OwnerPart:
    """What the owner does for the members.

    Args:
        link: the part of this run in the environment.
        foreground: the main thread.
        mask: a function that masks the secrets in a text.
        vault: encrypts the environment variables that contain secrets.
        key: the key with which the published journal is sealed.
    """

    def __init__(
        self,
        link: Link,
        foreground: Foreground,
        mask: Callable[[str], str],
        vault: Vault,
        key: Key,
    ) -> None:
        self._link = link
        self._foreground = foreground
        self._mask = mask
        self._vault = vault
        self._journal = PublishedJournal(link, key)
        self._variables: set[Row] = set()
        if problem := self._journal.problem:
            foreground.say(problem, always=True)

    def on_event(self, run: Run, event: Event) -> None:
        """Publish that a step has begun or ended, or was lost."""
        if isinstance(event, StepStarted):
            if run.step_runs[event.step].planned.worker is None:
                self._publish([running_row(event.step)])
        elif isinstance(event, StepFinished | StepLost):
            name = event.result.name
            if run.step_runs[name].planned.worker is None:
                self._publish([*self._new_variables(run), self._outcome(run, name)])

    def decided(self, run: Run) -> None:
        """Publish the outcomes of all steps; none of them runs any more."""
        steps = run.step_runs.values()
        rows = [self._outcome(run, one.name) for one in steps if one.planned.worker is None]
        decided = Decided(network(), run.facts.host)
        self._publish([*self._new_variables(run), *rows, decided_row(decided)])

    def mirror(self, journal: Journal, facts: Mapping[str, Any]) -> None:
        """Publish the journal of this run, each record before what it is about.

        The values of the State are left out, because they are published anyway.

        Args:
            journal: the journal, which has no steps yet.
            facts: the facts that it contains.
        """
        journal.mirror_to(self._publish_statements)
        journal.set(**facts)

    def wait(self, run: Run, longest: float | None) -> Closed:
        """Wait for the members, and begin the cleanup; return how that has ended.

        Args:
            run: the run, whose steps can still be lost.
            longest: the seconds after which the members that are left are not waited for any
                more; None means no limit.
        """
        return Closing(self._link, self._foreground, run.catch_up).wait(longest)

    def guard(self, on_alone: Callable[[], None]) -> Guard:
        """Return what stops the cleanup as soon as another run has taken over.

        Args:
            on_alone: a function to call before the cleanup goes on without the server.
        """
        return Guard(self._link, self._journal, has_journal=True, on_alone=on_alone)

    def finish(self, *, is_clean: bool) -> None:
        """End the environment; leave it to others if something could not be undone.

        Args:
            is_clean: whether everything was undone.
        """
        link = self._link
        if link.is_fenced or link.is_silent:
            return
        try:
            end(link, is_clean=is_clean)
        except ShareError as error:
            self._refused(error)

    def _outcome(self, run: Run, name: str) -> Row:
        row = outcome_row(run.step_runs[name].result())
        return row._replace(text=self._mask(row.text))

    def _new_variables(self, run: Run) -> Iterable[Row]:
        rows = [row for row in variable_rows(run.facts) if row not in self._variables]
        self._variables.update(rows)
        shown = []
        for row in rows:
            try:
                shown.append(self._vault.encrypted(row))
            except StateError as error:
                step, _, name = row.key.rpartition(" ")
                self._foreground.say(
                    f"other runs do not see environment variable {name} of step {step!r}, which "
                    f"{error}",
                    bad=True,
                )
        return shown

    def _publish_statements(self, statements: Sequence[Statement]) -> None:
        if self._link.trouble is None:
            try:
                self._journal.publish(statements)
            except ShareError as error:
                self._refused(error)

    def _publish(self, rows: list[Row]) -> None:
        link = self._link
        if link.trouble is not None:
            return
        try:
            link.store.publish(link.access, rows)
        except ShareError as error:
            self._refused(error)

    def _refused(self, error: ShareError) -> None:
        if isinstance(error, StaleError):
            self._link.fence(error)
        else:
            self._link.fail(str(error))
