"""Accounts of runs for the tests of report formats."""

from __future__ import annotations

from typing import Any

from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.report.account import (
    Account,
    AttemptAccount,
    CleanupAccount,
    StepAccount,
    TestAccount,
)
from pytest_plan.report.verdict import RunVerdict

NO_CLEANUP = CleanupAccount(CleanupOutcome.NONE, None, 0.0, None)


def cleanup(
    outcome: CleanupOutcome = CleanupOutcome.SUCCEEDED,
    started: float = 8.0,
    seconds: float = 1.0,
    error: str | None = None,
) -> CleanupAccount:
    """Return a cleanup that succeeded, unless the arguments say otherwise."""
    return CleanupAccount(outcome, started, seconds, error)


def step(name: str, *, started: float | None = 0.0, seconds: float = 1.0, **more: Any) -> Any:
    """Return a step that succeeded, unless `more` says otherwise."""
    began = started or 0.0
    values: dict[str, Any] = {
        "outcome": StepOutcome.SUCCEEDED,
        "reason": None,
        "needs": (),
        "after": (),
        "origin": "conftest.py:1",
        "attempts": (AttemptAccount(1, "exec", began, seconds, None),),
        "attempts_allowed": 1,
        "cleanup": NO_CLEANUP,
    }
    return StepAccount(name=name, started=started, seconds=seconds, **{**values, **more})


def failed(name: str, **more: Any) -> Any:
    """Return a step that failed."""
    values = {"outcome": StepOutcome.FAILED, "reason": "RuntimeError: no", "error": "E   no"}
    return step(name, **{**values, **more})


def blocked(name: str, **more: Any) -> Any:
    """Return a step that did not run."""
    return step(
        name,
        started=None,
        seconds=0.0,
        outcome=StepOutcome.BLOCKED,
        reason="needs 'db': failed",
        attempts=(),
        **more,
    )


def ran(node_id: str, outcome: str = "passed", worker: str = "main", **more: Any) -> TestAccount:
    """Return a test that passed, unless the arguments say otherwise."""
    values = {"started": 2.0, "seconds": 0.5, **more}
    return TestAccount(node_id=node_id, worker=worker, outcome=outcome, **values)


def account(*steps: StepAccount, tests: tuple[TestAccount, ...] = (), **more: Any) -> Account:
    """Return a run of ten seconds that succeeded, unless `more` says otherwise."""
    plan = more.pop("outcome", StepOutcome.SUCCEEDED)
    run = more.pop("run_outcome", plan)
    values: dict[str, Any] = {
        "run_id": "1f0c9a3e",
        "environment": "run-1f0c9a3e",
        "verdict": RunVerdict(run, plan, "2 passed", "2 steps succeeded", "succeeded"),
        "reason": None,
        "limit": None,
        "seconds": 10.0,
        "began_at": 1_790_000_000.0,
        "cleanup_began": 8.0,
    }
    return Account(steps=steps, tests=tests, **{**values, **more})


def shared(role: str, **more: Any) -> dict[str, Any]:
    """Return the facts about an environment that two members share, as `role` sees it."""
    facts = {
        "environment": "build-7",
        "id": "f00d",
        "epoch": 2,
        "role": role,
        "owner": "vm-1 (tests 1/3)",
        "members": ["vm-2 (tests 2/3)", "vm-3 (<tests> 3/3)"],
        "lease_seconds": 60.0,
        "lost": None,
    }
    return {**facts, **more}
