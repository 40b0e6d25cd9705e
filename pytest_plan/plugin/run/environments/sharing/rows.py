"""What the owner of a shared environment publishes about its steps, as rows of the store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import StepResult
from pytest_plan.engine.shared.run_facts import RunFacts
from pytest_plan.sharing.model import Kind, Row

_DECIDED = ""  # the key of the row about the end of provisioning, which is no name of a step
_LOST = "was lost at"


class Published(NamedTuple):
    """The outcome of a step in the run of the owner.

    Attributes:
        outcome: its outcome.
        reason: why it did not succeed; "" if it did, or if that is not known.
        log: the last lines of its log if it failed.
        seconds: its duration, with retries; 0 until it has ended.
    """

    outcome: StepOutcome
    reason: str = ""
    log: str = ""
    seconds: float = 0.0

    @property
    def is_lost(self) -> bool:
        """Whether the step was lost after it had succeeded."""
        return self.reason.startswith(_LOST)


class Decided(NamedTuple):
    """What the owner publishes once it runs no step any more.

    Attributes:
        network: its loopback interface, as `addresses.network` returns it.
        host: the address under which tests reach what its steps start.
    """

    network: str
    host: str


def decided_row(decided: Decided) -> Row:
    """Return the row about the end of provisioning."""
    return Row(Kind.OUTCOME, _DECIDED, json.dumps(decided))


def decided_in(rows: Iterable[Row]) -> Decided | None:
    """Return what the owner has published at the end of provisioning; None before that."""
    found = [row.text for row in rows if row.key == _DECIDED]
    return Decided(*map(str, json.loads(found[-1]))) if found else None


def outcome_row(result: StepResult) -> Row:
    """Return the row about the outcome of a step, or about its loss."""
    if (lost := result.lost) is not None:
        at = SystemClock.time_of_day(lost.wall)
        return _row(result.name, Published(StepOutcome.FAILED, f"{_LOST} {at}: {lost.detail}"))
    error = result.error
    reason = result.reason or ""
    if error is not None:
        reason = describe(error.__cause__ or error)
    return _row(result.name, Published(result.outcome, reason, result.log_tail, result.seconds))


def running_row(step: str) -> Row:
    """Return the row about a step that has begun."""
    return _row(step, Published(StepOutcome.RUNNING))


def published(rows: Iterable[Row]) -> dict[str, Published]:
    """Return the outcomes in rows by the names of the steps, without the end."""
    found = {}
    for row in rows:
        if row.key != _DECIDED:
            outcome, reason, log, seconds = json.loads(row.text)
            found[row.key] = Published(StepOutcome(outcome), str(reason), str(log), float(seconds))
    return found


def variable_rows(facts: RunFacts) -> list[Row]:
    """Return rows about the environment variables that steps have set."""
    owners, current = facts.variables.owners(), facts.variables.current()
    found = [(owners[name], name, text) for name, text in current.items() if name in owners]
    found += facts.instance_variables.current()
    return [
        Row(Kind.VARIABLE, f"{step} {name}", json.dumps(one))
        for one in found
        for step, name, _ in [one]
    ]


def variables_in(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    """Return the step, the name and the value of each environment variable in rows."""
    return [(step, name, text) for row in rows for step, name, text in [json.loads(row.text)]]


def _row(step: str, outcome: Published) -> Row:
    return Row(Kind.OUTCOME, step, json.dumps(outcome))
