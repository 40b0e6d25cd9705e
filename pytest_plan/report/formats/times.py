"""Computes where the time of a run went: its phases, the critical path, slack, and slow tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_plan.report.account import Account, StepAccount, TestAccount
from pytest_plan.report.formats.chart import ready_at

_MOST_OFF_PATH = 5
_SLOWEST = 5  # tests
_LEAST_WAIT = 0.05  # seconds; shorter waits are not worth a line


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run; phases overlap if tests ran while steps did.

    Attributes:
        name: its name.
        began: when it began, in seconds since the run began.
        seconds: its duration, in seconds.
    """

    name: str
    began: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What a step spent its time on, in seconds.

    Attributes:
        step: the step.
        queued: before it began, although it could have.
        failed: in attempts that failed.
        waited: between attempts.
        paused: in its pause.
        slack: how much longer it could have taken without making provisioning longer.
    """

    step: StepAccount
    queued: float
    failed: float
    waited: float
    paused: float
    slack: float

    @property
    def notes(self) -> list[tuple[str, float]]:
        """What did not bring the step forward, and for how long; short times are left out."""
        found = [
            ("waiting to start", self.queued),
            ("failed attempts", self.failed),
            ("waiting for a retry", self.waited),
            ("pause", self.paused),
        ]
        return [(name, seconds) for name, seconds in found if seconds >= _LEAST_WAIT]


@dataclass(frozen=True, slots=True)
class Times:
    """Where the time of a run went.

    Attributes:
        phases: provisioning, tests and cleanup, as far as they took place.
        path: the steps of the critical path in order; empty if there is only one step.
        off_path: the longest of the other steps.
        spent: all steps that ran, by name.
        slowest: the slowest tests.
        busy: the share of the time in which workers ran tests, from 0 to 1.
    """

    phases: tuple[Phase, ...]
    path: tuple[Spent, ...]
    off_path: tuple[Spent, ...]
    spent: Mapping[str, Spent]
    slowest: tuple[TestAccount, ...]
    busy: float


def of(account: Account) -> Times:
    """Return where the time of a run went."""
    spent = _spent(account.steps)
    path = tuple(spent[name] for name in account.critical_path if name in spent)
    others = [one for name, one in spent.items() if name not in account.critical_path]
    others.sort(key=lambda one: one.step.seconds, reverse=True)
    began = (test for test in account.tests if test.outcome != "blocked")
    slowest = sorted(began, key=lambda test: test.seconds, reverse=True)[:_SLOWEST]
    phases = tuple(_phases(account))
    return Times(
        phases,
        path,
        tuple(others[:_MOST_OFF_PATH]) if path else (),
        spent,
        tuple(slowest),
        _busy(account, phases),
    )


def _phases(account: Account) -> Iterator[Phase]:
    ran = [step for step in account.steps if step.started is not None]
    if ran:
        began = min(step.started or 0.0 for step in ran)
        yield Phase("Provisioning", began, max(map(_ended, ran)) - began)
    if account.tests:
        began = account.tests[0].started
        ended = max(test.started + test.seconds for test in account.tests)
        yield Phase("Tests", began, ended - began)
    if account.cleanup_began is not None:
        seconds = max(0.0, account.seconds - account.cleanup_began)
        yield Phase("Cleanup", account.cleanup_began, seconds)


def _busy(account: Account, phases: Sequence[Phase]) -> float:
    whole = sum(phase.seconds for phase in phases if phase.name == "Tests")
    workers = len({test.worker for test in account.tests})
    if not whole or not workers:
        return 0.0
    return min(1.0, sum(test.seconds for test in account.tests) / (whole * workers))


def _spent(steps: Sequence[StepAccount]) -> dict[str, Spent]:
    known = {step.name: step for step in steps}
    slack = _slack(steps)
    return {
        step.name: _of_step(step, ready_at(step, known), slack[step.name])
        for step in steps
        if step.started is not None
    }


def _of_step(step: StepAccount, ready: float, slack: float) -> Spent:
    assert step.started is not None
    failed = sum(attempt.seconds for attempt in step.attempts if attempt.error is not None)
    waited = sum(
        max(0.0, after.started - before.started - before.seconds)
        for before, after in pairwise(step.attempts)
    )
    last = step.attempts[-1] if step.attempts else None
    paused = 0.0 if last is None else max(0.0, _ended(step) - last.started - last.seconds)
    return Spent(step, max(0.0, step.started - ready), failed, waited, paused, slack)


def _slack(steps: Sequence[StepAccount]) -> dict[str, float]:
    """Return the slack of each step that ran: until the latest end that delays no other step."""
    ran = [step for step in steps if step.started is not None]
    finish = max(map(_ended, ran), default=0.0)
    latest = {step.name: finish for step in ran}
    # A step begins after those that it waits for, so that later ones come first here.
    for step in sorted(ran, key=lambda step: step.started or 0.0, reverse=True):
        for name in (*step.needs, *step.after):
            if name in latest:
                latest[name] = min(latest[name], latest[step.name] - step.seconds)
    return {step.name: max(0.0, latest[step.name] - _ended(step)) for step in ran}


def _ended(step: StepAccount) -> float:
    return (step.started or 0.0) + step.seconds
