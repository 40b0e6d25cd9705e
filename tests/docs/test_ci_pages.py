"""The files for CI systems: they can be read, their commands work, and all reports are kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.model.durations import parse_duration
from tests.docs.pages import blocks
from tests.docs.shell import Shell

yaml: Any = pytest.importorskip("yaml")

PROJECT = {
    "conftest.py": "import pytest\n@pytest.mark.plan_step\ndef db(ctx):\n    ctx.log('up')\n"
    "    raise OSError('no port')\n",
    "test_it.py": "def test_it(db): pass\n",
}
# The settings that the pages have in common.
SETTINGS = next(one.text for one in blocks("how-to/run-it-in-ci") if one.language == "ini")
WRITTEN = ("report.xml", "plan.html", ".pytest_plan/artifacts")


def file_of(page: str, language: str) -> str:
    """Return the only file of a page in this language."""
    (block,) = [one for one in blocks(f"how-to/{page}") if one.language == language]
    return block.text


def github() -> dict[str, Any]:
    """Return the job of the workflow."""
    workflow = yaml.safe_load(file_of("run-it-in-github-actions", "yaml"))
    assert workflow[True] == ["push", "pull_request"]  # YAML 1.1 reads `on` as true
    (job,) = workflow["jobs"].values()
    return dict(job)


def gitlab() -> dict[str, Any]:
    """Return the job of GitLab."""
    (job,) = yaml.safe_load(file_of("run-it-in-gitlab-ci", "yaml")).values()
    return dict(job)


def pytest_commands(text: str) -> list[str]:
    """Return the commands of a file that run pytest, as they are typed without `exec`."""
    return re.findall(r"(?:exec )?(?:\.venv/bin/)?(pytest [^'\n]*)", text)


def test_github_keeps_what_is_written_and_cleans_up_in_any_case() -> None:
    """The tests come first; each later step also runs if they failed or were cancelled."""
    job = github()
    runs = [step.get("run", "") for step in job["steps"]]
    tests = next(number for number, run in enumerate(runs) if run.startswith("exec pytest"))
    assert runs[tests + 1] == "pytest --plan-cleanup"
    later = job["steps"][tests + 1 :]
    assert [step["if"] for step in later] == ["always()"] * len(later)
    kept = later[-1]["with"]
    assert kept["path"].split() == list(WRITTEN)
    assert kept["include-hidden-files"] is True


def test_gitlab_keeps_what_is_written_and_cleans_up_in_any_case() -> None:
    """`after_script` also runs after a failure; artifacts are kept then."""
    job = gitlab()
    assert job["script"][-1].startswith("exec pytest ")
    assert job["after_script"] == ["pytest --plan-cleanup"]
    assert job["artifacts"]["when"] == "always"
    assert job["artifacts"]["paths"] == list(WRITTEN)
    assert job["artifacts"]["reports"] == {"junit": "report.xml"}


def test_jenkins_keeps_what_is_written_and_cleans_up_in_any_case() -> None:
    """What `post { always }` does comes in this order, so that a failed cleanup is archived."""
    text = file_of("run-it-in-jenkins", "groovy")
    assert text.count("{") == text.count("}")
    stages, _, post = text.partition("    post {\n        always {")
    assert "sh 'exec .venv/bin/pytest " in stages
    places = [post.index(one) for one in ("pytest --plan-cleanup", "junit '", "archiveArtifacts")]
    assert places == sorted(places)
    archived = re.findall(r"artifacts: '([^']*)'", post)[0].split(", ")
    assert archived == [*WRITTEN[:-1], f"{WRITTEN[-1]}/**"]


def test_the_limit_of_the_plan_is_shorter_than_that_of_the_job() -> None:
    """Otherwise the job ends before the plan's limit can say which step has hung."""
    (limit,) = re.findall(r"plan_limit = (\w+)\n", SETTINGS)
    jenkins = file_of("run-it-in-jenkins", "groovy")
    (minutes,) = re.findall(r"timeout\(time: (\d+), unit: 'MINUTES'\)", jenkins)
    longest = [github()["timeout-minutes"], int(gitlab()["timeout"].split()[0]), int(minutes)]
    assert parse_duration(limit, "plan_limit") < 60 * min(longest)


def test_the_commands_of_the_files_work(
    outside: None, own_temporary_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They write all that is kept; the files differ only in how long cleanup may take."""
    pages = (("github-actions", "yaml"), ("gitlab-ci", "yaml"), ("jenkins", "groovy"))
    found = [pytest_commands(file_of(f"run-it-in-{name}", kind)) for name, kind in pages]
    same = {tuple(re.sub(r"limit=\d+s", "limit=N", one) for one in commands) for commands in found}
    assert len(same) == 1
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    shell = Shell(tmp_path)
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    tests, cleanup = found[0]
    assert "::error file=conftest.py,line=5,title=plan step 'db' failed::" in shell.type(tests)
    assert all((tmp_path / name).exists() for name in WRITTEN)
    assert shell.type(f"{cleanup} && echo clean").endswith("clean\n")
