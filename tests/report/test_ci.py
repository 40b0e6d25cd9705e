"""What CI systems get: annotations of GitHub, its job summary, sections of GitLab's job log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.plugin.project import Project

GITHUB_COMMANDS = {
    *("error", "warning", "notice", "debug", "group", "endgroup", "echo", "add-mask"),
    *("set-output", "set-env", "add-path", "save-state", "stop-commands", "add-matcher"),
}
SECTION = re.compile(
    r"(?:\x1b\[0K)?section_(?P<what>start|end):(?P<at>\d+):(?P<name>[A-Za-z0-9_.-]+)"
    r"(?:\[(?P<options>[a-z=,]+)\])?\r\x1b\[0K(?P<title>.*)"
)
STEPS = r"""
import os
TEXT = "50% of ::error::b, c\n::warning::two\r\x1b[2J ]]>" + chr(0x202e) + os.fsdecode(b"\xff")
TEXT += "\n\x1b[0Ksection_end:1:plan\r\x1b[0K##[group]x"

@pytest.mark.plan_step(needs=())
def token(): return Secret("hunter2-hunter2")

@pytest.mark.plan_step(needs=["token"], retries=1, retry_wait=0)
def broken(ctx):
    ctx.log("hunter2-hunter2 " + TEXT)
    raise ValueError("hunter2-hunter2 " + TEXT)

@pytest.mark.plan_step(needs=())
def net():
    yield
    raise OSError("still in use")

def fails(number):
    def step(): raise RuntimeError('x' * 2500)
    step.__name__ = f"bad{number:02}"
    return pytest.mark.plan_step(needs=())(step)

for number in range(11):
    globals()[f"bad{number:02}"] = fails(number)
"""
TESTS = "def test_it(net): print('::error::of a test')\n@pytest.mark.plan\ndef test_all(): pass"


WORKERS = ("-p", "xdist", "-n2", "--plan-continue-on-error", "--plan-jobs=1", "--tb=no")


class Command(NamedTuple):
    """A workflow command."""

    name: str
    properties: dict[str, str]
    data: str


def commands(text: str) -> list[Command]:
    """Return the workflow commands in an output, read as GitHub's runner reads them.

    A command is at the start of a line, after white space. The name is followed by properties, and
    the data by the end of the line. Escapes are undone, that of the percent sign at last.
    """
    found = []
    for line in text.splitlines():
        head, is_command, data = line.lstrip()[2:].partition("::")
        name, _, properties = head.partition(" ")
        if not line.lstrip().startswith("::") or not is_command or name not in GITHUB_COMMANDS:
            continue
        pairs = [pair.split("=", 1) for pair in properties.strip().split(",") if pair]
        values = {key: unescaped(value, "\r\n:,%") for key, value in pairs}
        found.append(Command(name, values, unescaped(data, "\r\n%")))
    return found


def unescaped(text: str, characters: str) -> str:
    """Return a text of a command without its escapes."""
    for one in characters:
        text = text.replace(f"%{ord(one):02X}", one)
    return text


def line_of(folder: Path, text: str) -> str:
    """Return the number of the first line of the conftest with a text."""
    lines = (folder / "conftest.py").read_text().splitlines()
    return str(next(number for number, line in enumerate(lines, 1) if text in line))


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The summary file of a job of GitHub Actions, whose repository is the parent of rootdir."""
    file = tmp_path / "summary"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    return file


def test_annotations_and_summary_of_github(
    project: Project, github: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller writes both, without secrets: ten of a kind, each at the line of the step."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.path.parent))
    project.steps("from pytest_plan import Secret", STEPS)
    project.tests(TESTS)
    result = project.run_apart(
        "-p", "xdist", "-n2", "--plan-continue-on-error", "--plan-jobs=1", "--tb=no"
    )
    text = result.stdout.str()
    found = commands(text + result.stderr.str())
    errors = [one for one in found if one.name == "error"]
    assert len(errors) == 10
    (broken,) = [one for one in errors if "broken" in one.properties["title"]]
    name = project.path.name
    assert broken.properties == {
        "file": f"{name}/conftest.py",
        "line": line_of(project.path, "raise ValueError"),
        "title": "plan step 'broken' failed",
    }
    first, attempts, log = broken.data.splitlines()
    assert first.startswith("ValueError: *** 50% of ::error::b, c ")
    assert attempts == "2 attempts failed"
    assert re.fullmatch(r"The whole log: \.pytest_plan/artifacts/\w+/broken/log\.txt", log)
    bad = next(one for one in errors if "'bad00'" in one.properties["title"])
    assert bad.properties["line"] == line_of(project.path, "raise RuntimeError")
    assert 1000 < len(bad.data) < 3000
    last = errors[-1]
    assert last.properties == {"title": "3 more errors of the plan"}
    assert last.data.splitlines() == [f"plan step 'bad{n:02}' failed" for n in (8, 9, 10)]
    (warning,) = [one for one in found if one.name == "warning"]
    assert warning.properties["title"] == "cleanup of plan step 'net': failed"
    assert warning.properties["line"] == line_of(project.path, "raise OSError")
    assert warning.data == "OSError: still in use"
    assert {one.name for one in found} == {"error", "warning"}
    summary = github.read_text()
    assert summary.count("## Run failed") == 1
    for shown in (text, summary):
        assert "hunter2" not in shown
        assert not re.search("[\x1b\u202e\udcff]", shown)


def test_ci_formats_can_be_turned_off(project: Project, github: Path) -> None:
    """With `plan_ci = false` there is neither; a run without steps has no summary in any case."""
    project.steps("@pytest.mark.plan_step\ndef db(): raise OSError('no')")
    project.tests("def test_it(db): pass")
    result = project.run("-o", "plan_ci=false")
    assert commands(result.stdout.str()) == []
    assert not github.exists()
    project.run("-o", "plan_github_summary=false", "-p", "no:terminal")
    assert not github.exists()
    project.write("conftest.py", "")
    project.tests("def test_it(): pass")
    assert project.run("--plan-limit=60s").ret == 0
    assert not github.exists()


def test_sections_of_gitlab(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the plan prints before and after the tests is folded, and nothing else is."""
    monkeypatch.setenv("GITLAB_CI", "true")
    project.steps("from pytest_plan import Secret", STEPS)
    project.tests(TESTS)
    project.run_apart(
        "-p", "xdist", "-n2", "--plan-continue-on-error", "--plan-jobs=1", "--tb=no", "-v"
    )
    names: list[str] = []
    inside: dict[str, list[str]] = {}
    is_open, outside = False, []
    text = (project.path / "stdout").read_bytes().decode()  # with carriage returns
    for line in text.split("\n"):
        if marker := SECTION.fullmatch(line):
            assert is_open == (marker["what"] == "end")
            is_open = not is_open
            assert marker["options"] == ("collapsed=true" if is_open else None)
            assert is_open or not marker["title"]
            assert int(marker["at"]) > 1_500_000_000
            names.append(marker["name"])
            inside.setdefault(marker["title"] or names[-1], [])
        elif is_open:
            inside[list(inside)[-1]].append(line)
        else:
            outside.append(line)
    assert not is_open
    assert names[0::2] == names[1::2]
    assert len(set(names)) == 2
    titles = [title for title in inside if title.startswith("plan: ")]
    assert titles == ["plan: provisioning", "plan: cleanup"]
    assert len([x for x in inside[titles[0]] if re.match(r"plan: \w+ +(ok|FAILED) ", x)]) == 14
    assert [x.split()[1:4] for x in inside[titles[1]] if x] == [["net", "cleanup", "FAILED"]]
    assert any("test_it" in line and "PASSED" in line for line in outside)
    assert any(line.startswith("Run failed. Tests: ") for line in outside)
