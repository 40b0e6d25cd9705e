"""`--plan-doctor`: what it checks, and that its block has no secrets."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from pytest_plan.plugin.commands.doctor.finding import private
from pytest_plan.plugin.commands.doctor.versions import TRIED
from tests.plugin.project import ROOT, Project
from tests.plugins import table

KEPT = """
import sys

@pytest.mark.plan_step
def server(ctx):
    return ctx.start([sys.executable, "-c", "import time; time.sleep(600)"]).pid
"""


def examine(project: Project, *args: str, status: int = 0) -> dict[str, list[str]]:
    """Run `--plan-doctor`, and return what its block says, by subject, each after its level."""
    result = project.run("--plan-doctor", *args)
    assert result.ret == status, result.stdout.str() + result.stderr.str()
    block = re.search(r"^```text\n(.*?)^```$", result.stdout.str(), re.M | re.S)
    assert block is not None
    found: dict[str, list[str]] = {}
    for line in block[1].splitlines():
        level, subject, text = line.split(maxsplit=2)
        found.setdefault(subject, []).append(f"{level} {text}")
    return found


def test_a_sound_setup_has_no_problem(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It tries the journal, its lock and the reaper, leaves no folder, and shows no secret."""
    monkeypatch.setenv("SECRET_TOKEN", "sesame")
    monkeypatch.setenv("PYTEST_PLAN_KEY", "ab" * 32)
    monkeypatch.setenv("DOCKER_HOST", "")
    monkeypatch.setenv("HOME", str(project.path.parent))
    project.tests("def test_it(): note('test')")
    found = examine(project, "-p", "xdist", "-n2")
    assert not any(text.startswith("problem") for texts in found.values() for text in texts)
    assert found["python"][0].startswith(f"ok {'.'.join(map(str, sys.version_info[:3]))} (")
    assert found["pytest"] == [f"ok {pytest.__version__}"]
    assert found["pytest-timeout"][0].endswith("not loaded; to load it: pytest -p timeout")
    assert found["plan_dir"][0].startswith(f"ok ~/{project.path.name}/.pytest_plan (")
    for subject in ("pytest-plan", "temporary", "pidfd", "key", "locks", "journal", "reaper"):
        assert found[subject][0].startswith("ok "), found[subject]
    assert found["environments"] == ["ok nothing is kept, and nothing is left behind"]
    page = (ROOT / "docs/how-to/debug-a-failed-step.md").read_text()
    assert set(re.findall(r"^(?:ok|note) +(\S+) {2}", page, re.M)) == {*found}
    shown = str(found)
    assert not any(secret in shown for secret in ("sesame", "abab", str(project.path.parent)))
    assert not (project.path / ".pytest_plan").exists()
    assert project.calls == []


def test_problems_say_what_to_do(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken conftest, a dead kept step, an engine that is not there: each is a problem."""
    project.steps(KEPT)
    project.tests("def test_it(server): pass")
    assert project.run_apart("--plan-keep", "always").ret == 0
    assert "'default' is kept for" in examine(project)["environments"][0]
    project.steps("@pytest.mark.plan_step(retrys=1)\ndef server(): pass")
    monkeypatch.setenv("DOCKER_HOST", "tcp://someone:sesame@127.0.0.1:1")
    found = examine(project, status=1)
    project.run_apart("--plan-cleanup")
    assert found["project"] == [
        "problem a step cannot be declared; fix the error that is shown above"
    ]
    assert found["containers"][0].startswith("problem the engine at DOCKER_HOST cannot be used: ")
    assert "sesame" not in str(found)
    project.steps("1 / 0")
    blocked = project.write("file", "")
    found = examine(project, "-o", f"plan_dir={blocked}", status=1)
    assert "a conftest cannot be loaded" in found["project"][0]
    assert found["plan_dir"][0].endswith("to a local folder that you may write")


def test_paths_are_shown_without_the_name_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The home folder is `~`, and so is the name of the user in other paths, but not in words."""
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("LOGNAME", "ada")
    assert private("/home/ada/x and /home/adam and ada") == "~/x and /home/adam and ada"
    assert (
        private("/tmp/pytest-of-ada/pytest-0, /var/ada/x") == "/tmp/pytest-of-~/pytest-0, /var/~/x"
    )


def test_plugins_that_were_tried_are_those_of_the_table() -> None:
    """The list of tried plugins is that of the page about plugins."""
    assert {*TRIED, "pytest"} == table.names()
