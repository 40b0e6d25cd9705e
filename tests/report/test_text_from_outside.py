"""What servers, programs and other people wrote is shown in every output, and obeyed in none."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.plugin.project import Project

ANSWER = r"""
ANSWER = "\x1b]0;title\x07\x1b[2J\n::error::one\n  ::set-output name=a::b\r##vso[task]##[group]"
ANSWER += "\u202e\x85\u2028\x00" + os.fsdecode(b"caf\xe9.csv")
"""
STEPS = r"""
import warnings

@pytest.mark.plan_step(needs=())
def absent(): pytest.skip("no file " + ANSWER)

@pytest.mark.plan_step(needs=(), retries=1, retry_wait=0)
def flaky(ctx):
    if ctx.attempt == 1: raise ValueError(ANSWER)
    yield
    raise OSError(ANSWER)

@pytest.mark.plan_step(needs=())
def broken(ctx):
    print(ANSWER)
    warnings.warn("old " + ANSWER)
    ctx.log("\x1b[32mgreen\x1b[0m " + ANSWER)
    ctx.run(["printf", r"::error::printed\n\033[2J"])
    def undo(): raise OSError(ANSWER)
    undo.__qualname__ = "undo" + ANSWER
    ctx.defer(undo)
    raise RuntimeError("refused " + ANSWER)
"""
HOOKS = """
def pytest_plan_step_finished(result):
    if result.name == "absent": raise KeyError(os.fsdecode(b"\\xff") + "\\n::error::hook")
"""
TESTS = """
def test_absent(absent): pass
def test_flaky(flaky): pass
def test_broken(broken): pass
"""
REPORTS = ("r.html", "r.json", "r.md", "r.trace.json")
obeyed = re.compile(rb"^\s*(::|\[command\])|##(vso|teamcity)?\[", re.MULTILINE)
controls = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]")


def harmless(data: bytes) -> str:
    """Return the text of an output after a check that nothing in it is obeyed."""
    assert not obeyed.search(data), data
    text = data.decode("utf-8")  # no half of a surrogate pair is left either
    assert not controls.search(text), text
    return text


def files(project: Project) -> dict[str, str]:
    """Return the text of the reports of a run, by name, after a check that they are harmless."""
    names = (*REPORTS, "junit.xml", "summary.md")
    return {name: harmless((project.path / name).read_bytes()) for name in names}


@pytest.mark.parametrize("workers", [[], ["-p", "xdist", "-n", "2"]], ids=["solo", "workers"])
def test_text_from_outside_is_harmless_in_every_output(
    project: Project, monkeypatch: pytest.MonkeyPatch, workers: list[str]
) -> None:
    """Terminal, JUnit, HTML, JSON, Markdown, trace and job summary show it, and obey nothing."""
    project.steps(ANSWER, STEPS, HOOKS)
    project.tests(TESTS)
    summary = project.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    args = [f"--plan-report={name}" for name in REPORTS]
    options = ["-o", "plan_github_summary=true", "--junitxml=junit.xml", "--color=no", "-rA"]
    done = project.pytester.runpytest_subprocess("-p", "pytest_plan", *workers, *options, *args)
    assert done.ret == 1
    shown = harmless((done.stdout.str() + done.stderr.str()).encode("utf-8", "surrogateescape"))
    assert "INTERNALERROR" not in shown
    assert "1 passed, 1 skipped, 1 warning, 3 errors, 1 blocked" in shown
    assert r"RuntimeError: refused \x1b]0;title\x07\x1b[2J" in shown
    assert "caf\\udce9.csv" in shown
    assert "old \\x1b]0;title" in shown
    assert "green \\x1b]0;title" in shown
    assert ":\\:error::printed" in shown
    assert "KeyError" in shown
    texts = files(project)
    ET.fromstring(texts["junit.xml"])
    steps = {step["name"]: step for step in json.loads(texts["r.json"])["steps"]}
    assert steps["absent"]["reason"].startswith("no file \\x1b]0;title\\x07\\x1b[2J\n:\\:error")
    json.loads(texts["r.trace.json"])
    assert "refused \\x1b]0;title" in html.unescape(texts["r.html"])
    rows = [line for line in texts["summary.md"].splitlines() if line.startswith("| absent")]
    assert len(rows) == 1


def test_names_of_files_are_harmless(project: Project) -> None:
    """A folder, a test file and a conftest may have any name."""
    folder = Path("a\n::error::folder\x1b[2J")
    source = "@pytest.mark.plan_step\ndef db(): raise OSError('no')"
    project.steps(source, name=str(folder / "conftest.py"))
    project.tests("def test_it(db): pass", name=str(folder / "test_it.py"))
    project.run_apart("--plan-report=r.md", "--plan-report=r.html", "-q", "--no-header")
    harmless((project.path / "r.md").read_bytes())
    harmless((project.path / "r.html").read_bytes())
    shown = project.run_apart("--plan-show", "--no-header", "-q").stdout.str()
    plan = shown[shown.index("= plan =") :]
    assert ":\\:error::folder\\x1b[2J" in harmless(plan.encode())


def test_a_usage_error_about_such_a_name_is_harmless(project: Project) -> None:
    """The name of a conftest is part of many messages that refuse a run."""
    folder = Path("a\x1bc\u202e\x07")
    source = "@pytest.mark.plan_step(nonsense=1)\ndef db(): pass"
    project.steps(source, name=str(folder / "conftest.py"))
    done = project.run_apart(folder)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "nonsense" in harmless(done.stderr.str().encode())


@pytest.mark.parametrize("workers", [[], ["-p", "xdist", "-n", "2"]], ids=["solo", "workers"])
@pytest.mark.parametrize("ends", ["pytest.exit(ANSWER)", "raise KeyboardInterrupt(ANSWER)"])
def test_the_text_of_an_exit_is_harmless(project: Project, workers: list[str], ends: str) -> None:
    """A step may end the session with an answer of a server, also in what `-s` shows."""
    project.steps(ANSWER, f"@pytest.mark.plan_step\ndef db(): print(ANSWER); {ends}")
    project.tests("def test_it(db): pass")
    done = project.pytester.runpytest_subprocess("-p", "pytest_plan", "-s", "--color=no", *workers)
    assert done.ret == pytest.ExitCode.INTERRUPTED
    shown = harmless((done.stdout.str() + done.stderr.str()).encode("utf-8", "surrogateescape"))
    assert shown.count("\\x1b]0;title\\x07\\x1b[2J\n") >= 2
    assert shown.count(":\\:error::one") >= 2
