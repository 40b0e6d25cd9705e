"""Finds the commit of the project, and the CI job that runs the tests.

CI systems have both in environment variables. Elsewhere, the commit is read from `.git`, without
running Git, which need not be installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_COMMITS = ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT")  # GitHub Actions, GitLab CI, Jenkins
_JOBS = ("CI_JOB_URL", "BUILD_URL")  # GitLab CI, Jenkins
_GITHUB = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
_HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def commit(variables: Mapping[str, str], folder: Path) -> str:
    """Return the commit that is checked out; empty if it is not known.

    Args:
        variables: the environment variables.
        folder: a folder of the project.
    """
    found = next((value for name in _COMMITS if (value := variables.get(name))), None)
    return found or _checked_out(folder)


def job(variables: Mapping[str, str]) -> str:
    """Return the address of the CI job; empty if there is none.

    Args:
        variables: the environment variables.
    """
    server, repository, run = (variables.get(name) for name in _GITHUB)
    if server and repository and run:
        return f"{server}/{repository}/actions/runs/{run}"
    return next((value for name in _JOBS if (value := variables.get(name))), "")


def _checked_out(folder: Path) -> str:
    marker = next((each / ".git" for each in (folder, *folder.parents) if _is_in(each)), None)
    if marker is None:
        return ""
    try:
        return _head(_git_folder(marker))
    except (OSError, ValueError):
        return ""


def _is_in(folder: Path) -> bool:
    return (folder / ".git").exists()


def _git_folder(marker: Path) -> Path:
    """Return Git's folder, of which a worktree or submodule only has the path, in a file."""
    if marker.is_dir():
        return marker
    return marker.parent / marker.read_text(encoding="utf-8").removeprefix("gitdir:").strip()


def _head(git: Path) -> str:
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return head if _HASH.fullmatch(head) else ""
    ref = head.removeprefix("ref:").strip()
    common = git / "commondir"  # branches are shared by the worktrees of a repository
    shared = git / common.read_text(encoding="utf-8").strip() if common.exists() else git
    for file in (git / ref, shared / ref):
        if file.is_file():
            found = file.read_text(encoding="utf-8").strip()
            return found if _HASH.fullmatch(found) else ""
    packed = shared / "packed-refs"
    lines = packed.read_text(encoding="utf-8").splitlines() if packed.exists() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {ref}")), "")
