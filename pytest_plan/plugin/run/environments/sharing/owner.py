"""The owner of a shared environment: it publishes what its steps do, and waits for the members."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
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
from pytest_plan.plugin.run.environments.sharing.trust.seals import RowSeals
from pytest_plan.sharing.errors import ShareError
from pytest_plan.sharing.model import Kind, Row, Status

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.journal.journal import Journal
    from pytest_plan.engine.journal.seal import Key
    from pytest_plan.engine.journal.writer import Statement
    from pytest_plan.plugin.main_thread.foreground import Foreground
    from pytest_plan.plugin.run.environments.sharing.link import Link
    from pytest_plan.plugin.run.environments.sharing.trust.secrets import Vault

_HEARTBEAT = 10.0  # seconds between two lines about a wait
_ABOUT_STATE = ("INSERT OR REPLACE INTO state ", "DELETE FROM state ")
_MOST_NAMED = 4  # members that a line names


class Heartbeat:
    """Writes a line at once, when it changes, and every ten seconds.

    Args:
        foreground: the main thread, which shows it.
        text: a function that returns the line.
    """

    def __init__(self, foreground: Foreground, text: Callable[[], str]) -> None:
        self._foreground = foreground
        self._text = text
        self._said = ""
        self._next = 0.0

    def __call__(self) -> None:
        """Write the line if it is due."""
        text, now = self._text(), SystemClock.now()
        if text == self._said and now < self._next:
            return
        self._said, self._next = text, now + _HEARTBEAT
        self._foreground.say(text, always=True)


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
        self._seals = RowSeals(link.access.environment, key, is_local=link.is_local)
        self._numbers = itertools.count(1)  # of the rows of the journal
        self._variables: set[Row] = set()
        if problem := self._seals.problem:
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

    def wait(self, run: Run, longest: float | None) -> bool:
        """Wait for the members, and begin the cleanup; return whether a run has failed.

        Args:
            run: the run, whose steps can still be lost.
            longest: the seconds after which the members that are left are not waited for any
                more; None means no limit.
        """
        link, begun = self._link, SystemClock.now()

        def is_over() -> bool:
            run.catch_up()
            is_late = longest is not None and SystemClock.now() >= begun + longest
            is_hurried = len(self._foreground.signals.received) > 1
            try:
                self._close(anyway=is_late or is_hurried)
            except ShareError as error:
                link.fail(str(error))
            return link.trouble is not None or link.view.status is not Status.OPEN

        def waiting() -> str:
            left = "" if longest is None else f" for at most {format_duration(longest)}"
            return f"{self._missing()}: cleanup waits{left}"

        link.wait(is_over, Heartbeat(self._foreground, waiting))
        left = len(link.view.members)
        if link.view.status is Status.CLOSED and left:
            self._foreground.say(
                f"cleanup begins although {_use(left)} {link.name!r}: their tests that have not "
                "begun are blocked",
                bad=True,
            )
        return link.view.failures > 0

    def _close(self, *, anyway: bool) -> None:
        """Begin the cleanup unless somebody has to be waited for."""
        link = self._link
        view = link.store.view(link.name)
        if view is not None and view.environment == link.view.environment:
            link.see(view)
        is_needed = bool(link.view.members) or link.view.joins < link.view.runs
        if anyway or not is_needed:
            link.see(link.store.close(link.access, anyway=anyway))

    def finish(self, *, is_clean: bool) -> None:
        """End the environment; leave it to others if something could not be undone.

        Args:
            is_clean: whether everything was undone.
        """
        link = self._link
        link.is_leaving = True  # once it is done, no renewal is accepted
        try:
            if link.trouble is None and is_clean:
                link.store.done(link.access)
            elif link.trouble is None:
                link.store.leave(link.access, failed=True)
        except ShareError as error:
            link.fail(str(error))

    def _missing(self) -> str:
        view = self._link.view
        names = [str(one) for one in view.members]
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        if names:
            users = f"{', '.join(names[:_MOST_NAMED])}{more}"
            return f"{_use(len(names))} {self._link.name!r}: {users}"
        return f"{view.joins} of {view.runs} runs have joined {self._link.name!r}"

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
        due = [one for one in statements if not one[0].startswith(_ABOUT_STATE)]
        epoch = self._link.access.environment.epoch  # an heir or a caretaker replaces no row
        rows = [
            Row(Kind.JOURNAL, f"{epoch:06} {next(self._numbers):08}", json.dumps(one))
            for one in due
        ]
        if rows:
            self._publish([self._seals.seal(row) for row in rows])

    def _publish(self, rows: list[Row]) -> None:
        link = self._link
        if link.trouble is not None:
            return
        try:
            link.store.publish(link.access, rows)
        except ShareError as error:
            link.fail(str(error))


def _use(runs: int) -> str:
    return "1 other run still uses" if runs == 1 else f"{runs} other runs still use"
