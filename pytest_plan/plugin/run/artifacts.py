"""Manages the artifact folders of the last three runs: `plan_dir/artifacts/<run id>`."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_plan.engine.environments.private import check_ours
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.shared.folders import Marker, mark_ended, marker_of, remove_tree

KEPT_RUNS = 3
FOLDER = "artifacts"


def folder(plan_dir: Path) -> Path:
    """Return the folder for artifacts.

    This function does not create the folder, so a run without artifacts leaves none behind.

    Raises:
        JournalError: the folder cannot be used, for example because it is a symbolic link. The
            message says what to do.
    """
    parent = plan_dir.parent
    for part in (plan_dir, plan_dir / FOLDER):
        try:
            check_ours(part)
        except FileNotFoundError:
            break
        parent = part
    if not os.access(parent, os.W_OK | os.X_OK):
        raise JournalError(f"{parent} is not writable")
    return plan_dir / FOLDER


def tidy(plan_dir: Path, run_id: str) -> list[str]:
    """Remove the artifacts of all but the last three runs that have ended.

    Args:
        plan_dir: the folder for journals and artifacts.
        run_id: the id of this run, which has ended.

    Returns:
        A line for each folder that is left although it is old, with the reason.
    """
    try:
        parent = folder(plan_dir)
        mark_ended(parent / run_id)
        found = sorted(parent.iterdir(), key=lambda path: path.lstat().st_mtime)
    except (OSError, JournalError):
        return []
    ours = [(path, marker) for path in found if (marker := marker_of(path)) is not None]
    lines = [line for old, marker in ours[:-KEPT_RUNS] for line in _remove(old, marker, plan_dir)]
    others = len(found) - len(ours)
    if others and len(found) > KEPT_RUNS:
        lines.append(f"{others} entries of {parent} are left: pytest-plan has not created them")
    return lines


def _remove(old: Path, marker: Marker, plan_dir: Path) -> list[str]:
    if not marker.is_in_use:
        return [f"{left}; it is left" for left in remove_tree(old, plan_dir)]
    if not marker.owner.is_elsewhere:
        return []
    return [f"{old} is left, because its run on {marker.owner.host} may not have ended"]
