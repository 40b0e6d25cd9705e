"""The commit and the CI job that reports show."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_plan.plugin.interface import checkout

COMMIT = "4f1c0d9be2a75c31c4a04f1c0d9be2a75c31c4a0"


def git(folder: Path, *arguments: str) -> str:
    """Run Git and return what it prints."""
    names = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "init.defaultBranch=main")
    command = ["git", *names, *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="Git is not installed")
def test_commit_is_read_as_git_reads_it(tmp_path: Path) -> None:
    """Of a branch, packed or not, of a detached head, of a worktree, and from a folder below."""
    main, tree = tmp_path / "main", tmp_path / "tree"
    main.mkdir()
    git(main, "init", "-q")
    assert checkout.commit({}, main) == ""
    for message in "ab":
        git(main, "commit", "-q", "--allow-empty", "-m", message)
    last = git(main, "rev-parse", "HEAD")
    (main / "below").mkdir()
    assert checkout.commit({}, main / "below") == last
    git(main, "pack-refs", "--all")
    assert checkout.commit({}, main) == last
    git(main, "worktree", "add", "-q", "-b", "other", str(tree), "HEAD~1")
    assert checkout.commit({}, tree) == git(tree, "rev-parse", "HEAD") != last
    git(main, "checkout", "-q", "--detach", "HEAD~1")
    assert checkout.commit({}, main) == git(main, "rev-parse", "HEAD") != last


@pytest.mark.parametrize("head", ["", "ref:", "ref: refs/heads/none", "not a commit", "\udcff"])
def test_damaged_repository_has_no_commit(tmp_path: Path, head: str) -> None:
    """A head that cannot be followed is not shown."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(head.encode("utf-8", "surrogateescape"))
    assert checkout.commit({}, tmp_path) == ""


@pytest.mark.parametrize("name", ["GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT"])
def test_ci_says_which_commit_it_tests(tmp_path: Path, name: str) -> None:
    """The variable of a CI system wins over the repository, which may be a merge or a copy."""
    assert checkout.commit({name: COMMIT}, tmp_path) == COMMIT


def test_ci_job() -> None:
    """GitHub Actions, GitLab CI and Jenkins each say where the job is."""
    github = {"GITHUB_SERVER_URL": "https://g", "GITHUB_REPOSITORY": "a/b", "GITHUB_RUN_ID": "7"}
    assert checkout.job(github) == "https://g/a/b/actions/runs/7"
    assert checkout.job({"CI_JOB_URL": "https://l/-/jobs/1"}) == "https://l/-/jobs/1"
    assert checkout.job({"BUILD_URL": "https://j/job/1/"}) == "https://j/job/1/"
    assert checkout.job({"GITHUB_RUN_ID": "7"}) == ""
