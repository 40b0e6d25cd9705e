"""The conftest.py of a project in a history: steps that leave traces, and note what they do."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from tests.faults.sharing.project.traces import SECONDS, WORLD, note


def make(ctx: Any, step: str) -> str:
    """Create what a step stands for, and return its token."""
    token = f"{step}-{uuid.uuid4().hex[:8]}"
    ctx.defer(undo, step, token)
    note("provision begun", step=step, token=token, folder=str(ctx.tmp_path))
    (WORLD / token).touch()
    (ctx.tmp_path / "file").touch()
    ctx.start(["sleep", "600"])
    time.sleep(SECONDS / 4)
    note("provision ended", step=step, token=token)
    return token


def undo(step: str, token: str) -> None:
    """Remove what a step stands for."""
    note("cleanup begun", step=step, token=token)
    (WORLD / token).unlink(missing_ok=True)
    time.sleep(0.1)
    note("cleanup ended", step=step, token=token)


@pytest.mark.plan_step
def net(ctx: Any) -> str:
    """Provide a network."""
    return make(ctx, "net")


@pytest.mark.plan_step
def db(ctx: Any, net: str) -> list[str]:
    """Provide a database."""
    return [make(ctx, "db"), net]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the outcome of each test."""
    if report.when == "call" or not report.passed:
        note("report", test=report.nodeid, outcome=report.outcome)
