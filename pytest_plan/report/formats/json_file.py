"""Writes `.json` reports for other programs; docs/reference/report-json.md documents the schema."""

from __future__ import annotations

import json
from typing import Any

from pytest_plan.report.account import Account, LossAccount, StepAccount

SCHEMA = 2
_DIGITS = 6  # seconds are rounded to microseconds


def text(account: Account) -> str:
    """Return the report as indented JSON."""
    return json.dumps(data(account), indent=2, ensure_ascii=False) + "\n"


def data(account: Account) -> dict[str, Any]:
    """Return the report as plain values, ready to be written as JSON."""
    return {
        "schema": SCHEMA,
        "run_id": account.run_id,
        "environment": account.environment,
        "outcome": account.verdict.outcome.value,
        "plan": {"outcome": account.verdict.plan_outcome.value, **_overlap(account)},
        "command": account.command,
        "host": account.host,
        "versions": dict(account.versions),
        "limit_seconds": account.limit,
        "steps": [_step(step) for step in account.steps],
        "tests": _tests(account),
        **({} if account.share is None else {"share": dict(account.share)}),
    }


def _overlap(account: Account) -> dict[str, Any]:
    early = account.early_tests
    return {} if early is None else {"overlap": True, "tests_before_ready": early}


def _tests(account: Account) -> dict[str, Any]:
    stages = account.counts_by_stage()
    return {**account.counts(), **({"by_stage": stages} if len(stages) > 1 else {})}


def _step(step: StepAccount) -> dict[str, Any]:
    cleanup = step.cleanup
    return {
        "name": step.name,
        "stage": step.stage,
        "outcome": step.outcome.value,
        "reason": step.reason,
        "needs": list(step.needs),
        "after": list(step.after),
        "started": _rounded(step.started),
        "seconds": _rounded(step.seconds),
        "attempts": [
            {
                "hook": str(attempt.hook),
                "seconds": _rounded(attempt.seconds),
                "error": attempt.error,
            }
            for attempt in step.attempts
        ],
        "cleanup": {
            "outcome": cleanup.outcome.value,
            "started": _rounded(cleanup.started),
            "seconds": _rounded(cleanup.seconds),
            "error": cleanup.error,
        },
        "lost": None if step.lost is None else _loss(step.lost),
    }


def _loss(loss: LossAccount) -> dict[str, Any]:
    return {"at": _rounded(loss.at), "program": loss.program, "status": loss.status}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, _DIGITS)
