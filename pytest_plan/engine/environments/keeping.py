"""Determines which steps can be kept for a later process, and why others cannot."""

from __future__ import annotations

import json

from pytest_plan.engine.journal.reader import Recorded, RecordedStep


def obstacles(recorded: Recorded) -> dict[str, str]:
    """Return the reasons why steps cannot be kept, by step name. All other steps can be kept."""
    found: dict[str, str] = {}
    for name, step in recorded.steps.items():
        reason = _own_obstacle(step, recorded) or _needed_obstacle(step, found)
        if reason is not None:
            found[name] = reason
    return found


def _own_obstacle(step: RecordedStep, recorded: Recorded) -> str | None:
    if step.outcome not in ("succeeded", "reused"):
        return f"it did not succeed ({step.outcome})"
    for undo in step.undos:
        if undo.kind == "tail":
            return (
                "its cleanup is the code after its yield, which no other process can run; "
                "return the value instead, and give the step cleanup=FUNCTION"
            )
        if undo.kind == "variable" and json.loads(undo.data)[1] is None:
            return "it set an environment variable to a secret, and the journal holds no secrets"
        if undo.kind == "lost":
            return f"it deferred a call that no other process can make: {undo.data}"
    if step.name in recorded.lost:
        return f"its value cannot be recorded: {recorded.lost[step.name]}"
    return None


def _needed_obstacle(step: RecordedStep, found: dict[str, str]) -> str | None:
    missing = [need for need in step.needs if need in found]
    return f"it needs {missing[0]!r}, which is not kept" if missing else None
