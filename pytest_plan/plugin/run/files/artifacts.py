"""Manages the artifact folders of runs: `plan_dir/artifacts/<run id>`.

Those of the last three runs stay, and those of the runs that have provisioned steps which are kept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_plan.engine.environments.private import check_ours
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.shared.folders import Marker, mark_ended, marker_of, remove_tree

if TYPE_CHECKING:
    from pytest_plan.engine.journal.reader import Recorded
    from pytest_plan.engine.journal.seal import Key

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


def usable_folder(plan_dir: Path, refused: Callable[[str], None] | None) -> Path | None:
    """Return the folder for artifacts; None if it cannot be used.

    Args:
        plan_dir: the folder for journals and artifacts.
        refused: a function to call with the reason if it cannot be used; None if it is known.
    """
    try:
        return folder(plan_dir)
    except JournalError as error:
        if refused is not None:
            refused(f"{error}; artifacts are not kept")
        return None


def tidy(plan_dir: Path, run_id: str, key: Key) -> list[str]:
    """Remove the artifacts of all but the last three runs that have ended and kept nothing.

    Args:
        plan_dir: the folder for journals and artifacts.
        run_id: the id of this run, which has ended.
        key: the key that seals the journals, which say what is kept. Nothing is removed if one of
            them cannot be read.

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
    lines = _remove_old(ours, plan_dir, key) if len(ours) > KEPT_RUNS else []
    others = len(found) - len(ours)
    if others and len(found) > KEPT_RUNS:
        lines.append(f"{others} entries of {parent} are left: pytest-plan has not created them")
    return lines


def _remove_old(runs: list[tuple[Path, Marker]], plan_dir: Path, key: Key) -> list[str]:
    try:
        held = _of_kept_steps(plan_dir, key)
    except JournalError:
        return []
    old = [(path, marker) for path, marker in runs if path.name not in held][:-KEPT_RUNS]
    return [line for path, marker in old for line in _remove(path, marker, plan_dir)]


def _of_kept_steps(plan_dir: Path, key: Key) -> set[str]:
    """Return the ids of the runs that have provisioned the steps of kept environments.

    Raises:
        JournalError: a journal of this user cannot be read.
    """
    # Imported here because most runs have nothing to remove.
    from pytest_plan.engine.environments.environment import FOLDER as ENVIRONMENTS
    from pytest_plan.engine.environments.environment import JOURNAL, names
    from pytest_plan.engine.journal.reader import ForeignError, read

    found: set[str] = set()
    for name in names(plan_dir):
        with contextlib.suppress(ForeignError):
            recorded = read(plan_dir / ENVIRONMENTS / name / JOURNAL, key)
            found.update(run for run in made_by(recorded, recorded.steps).values() if run)
    return found


def made_by(recorded: Recorded, steps: Iterable[str]) -> dict[str, str | None]:
    """Return the id of the run that has provisioned each of these recorded steps.

    None means that the journal does not say so.
    """
    earlier, last = recorded.facts.get("made", {}), recorded.facts.get("run")
    return {name: earlier.get(name, last) for name in steps}


def _remove(old: Path, marker: Marker, plan_dir: Path) -> list[str]:
    if not marker.is_in_use:
        return [f"{left}; it is left" for left in remove_tree(old, plan_dir)]
    if not marker.owner.is_elsewhere:
        return []
    return [f"{old} is left, because its run on {marker.owner.host} may not have ended"]
