"""The pages about runs that share an environment: two terminals, and the files for CI systems."""

from __future__ import annotations

import platform
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import blocks
from tests.docs.shell import Shell, matches
from tests.docs.test_ci_pages import WRITTEN, file_of, pytest_commands
from tests.xdist.cluster import wait_until

yaml: Any = pytest.importorskip("yaml")

TERMINALS = "how-to/share-an-environment-between-terminals"
PROJECT = {
    "conftest.py": "import pytest\n@pytest.mark.plan_step\ndef db(ctx): return ctx.host\n",
    "test_it.py": "def test_it(db): assert not db.startswith('127.')\n",
}
SECRETS = ("PYTEST_PLAN_SHARE", "PYTEST_PLAN_KEY")


def test_two_terminals_print_what_the_page_shows(shell: Shell) -> None:
    """The run of the second terminal joins the first one, which cleans up after it."""
    for block in blocks(TERMINALS):
        if block.language == "python":
            (shell.folder / str(block.file)).write_text(block.text)
    shown = [block.text for block in blocks(TERMINALS) if block.text.startswith("$ ")]
    (first, first_shown), (second, second_shown) = (text[2:].split("\n", 1) for text in shown)
    with ThreadPoolExecutor() as pool:
        owner = pool.submit(shell.type, first)
        wait_until(lambda: bool(list(shell.folder.glob(".pytest_plan/environments/*/journal.*"))))
        member = shell.type(second)
        said = owner.result()
    assert "this run waits" in member
    assert matches(_plain(first_shown), _plain(said)), said + member
    assert matches(_plain(second_shown), _plain(member)), member


def _plain(text: str) -> str:
    """Return the output with the same host and process ids on all machines."""
    text = re.sub(r"plan: .* for 'default': this run waits\n", "", text)  # some are too quick
    text = text.replace(platform.node(), "build-1")
    return re.sub(r"\(process \d+\)", "(process N)", text)


def test_github_has_as_many_jobs_as_the_owner_waits_for() -> None:
    """The URL and the key are secrets, and nothing cleans up before all jobs have ended."""
    (job,) = yaml.safe_load(file_of("shards-in-github-actions", "yaml"))["jobs"].values()
    shards = job["strategy"]["matrix"]["shard"]
    (command,) = pytest_commands(file_of("shards-in-github-actions", "yaml"))
    assert f"--splits {len(shards)} " in command
    assert f"--plan-share-runs {len(shards)} " in command
    assert shards == list(range(1, len(shards) + 1))
    assert job["strategy"]["fail-fast"] is False
    assert job["env"] == {name: f"${{{{ secrets.{name} }}}}" for name in SECRETS}
    kept = job["steps"][-1]
    assert kept["if"] == "always()"
    assert kept["with"]["path"].split() == list(WRITTEN)
    assert "${{ matrix.shard }}" in kept["with"]["name"]


def test_gitlab_keeps_what_is_written() -> None:
    """GitLab gives the number of jobs; the URL and the key are variables of the project."""
    (job,) = yaml.safe_load(file_of("shards-in-gitlab-ci", "yaml")).values()
    assert job["parallel"] > 1
    assert "after_script" not in job
    assert job["artifacts"]["paths"] == list(WRITTEN)
    assert not set(SECRETS) & set(job.get("variables", {}))


def test_the_commands_of_the_files_work(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They differ only in how the shards are numbered, and write all that is kept."""
    pytest.importorskip("jinja2")
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PYTEST_PLAN_SHARE", "local")
    pages = ("shards-in-github-actions", "shards-in-gitlab-ci")
    found = {
        re.sub(r"--splits \S+ --group (\$\{\{.*?\}\}|\S+) |--plan-share-runs 8 ", "", command)
        for page in pages
        for command in pytest_commands(file_of(page, "yaml"))
    }
    (command,) = found
    said = shell.type(command)
    assert "shared environment 'default': this run provisions it" in said
    assert "1 passed" in said
    assert all((tmp_path / name).exists() for name in WRITTEN[:2])
