"""The folder for what outlives a run: `plan_dir/artifacts/<run id>`, of the last three runs."""

from __future__ import annotations

import shutil
from pathlib import Path

KEPT_RUNS = 3
_CACHE_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder was made by pytest-plan; it can be removed at any time.\n"
)


def folder(plan_dir: Path) -> Path | None:
    """Return the folder of artifacts; None when nothing can be written there.

    Nothing is made yet: a run that leaves nothing behind makes no folder.
    """
    parent = plan_dir if plan_dir.exists() else plan_dir.parent
    return plan_dir / "artifacts" if _is_writable(parent) else None


def tidy(plan_dir: Path) -> None:
    """Mark `plan_dir` as a cache and remove the artifacts of all but the last runs."""
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
