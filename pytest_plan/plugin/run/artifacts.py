"""Manages the artifact folders of the last three runs: `plan_dir/artifacts/<run id>`."""

from __future__ import annotations

import shutil
from pathlib import Path

KEPT_RUNS = 3
_CACHE_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder was created by pytest-plan; it can be removed at any time.\n"
)


def folder(plan_dir: Path) -> Path | None:
    """Return the folder for artifacts, or None if it is not writable.

    This function does not create the folder, so a run without artifacts leaves none behind.
    """
    parent = plan_dir if plan_dir.exists() else plan_dir.parent
    return plan_dir / "artifacts" if _is_writable(parent) else None


def tidy(plan_dir: Path) -> None:
    """Mark `plan_dir` as a cache, and remove the artifacts of all but the last three runs."""
    if not plan_dir.is_dir():
        return
    for name, text in ((".gitignore", "*\n"), ("CACHEDIR.TAG", _CACHE_TAG)):
        path = plan_dir / name
        if not path.exists():
            path.write_text(text, encoding="utf-8")
    runs = sorted((plan_dir / "artifacts").glob("*"), key=lambda path: path.stat().st_mtime)
    for old in runs[:-KEPT_RUNS]:
        shutil.rmtree(old, ignore_errors=True)


def _is_writable(path: Path) -> bool:
    import os

    return os.access(path, os.W_OK | os.X_OK)
