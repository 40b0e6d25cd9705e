"""Other reporters show what the logs of steps have gained during a failing test."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET

import pytest

from tests.plugin.project import Project
from tests.plugin.talking import STEPS, TALK

TESTS = """
from talk import say

def test_passes(db):
    print("printed by test_passes")
    say(db, "during test_passes\\n")

def test_fails(db):
    print("printed by test_fails")
    say(db, "during test_fails\\n")
    assert False

@pytest.fixture
def user(db):
    yield
    say(db, "during teardown\\n")
    assert False

def test_teardown(db, user): pass

def test_both(db, user):
    say(db, "during test_both\\n")
    assert False

@pytest.fixture
def broken(db):
    say(db, "during setup\\n")
    assert False

def test_setup(broken): pass
"""
SHOWN = ["during setup", "during teardown", "during test_both", "during test_fails"]


@pytest.fixture(params=[(), ("-p", "xdist", "-n", "1")], ids=["solo", "workers"])
def workers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The arguments for a run without and with workers."""
    return tuple(request.param)


@pytest.fixture
def talking(project: Project) -> Project:
    """A project whose steps are servers that print what `say` sends."""
    project.write("talk.py", TALK)
    project.steps(STEPS)
    project.tests(TESTS)
    return project


def run(project: Project, *args: str) -> None:
    """Run pytest; the warnings of other plugins are not errors."""
    result = project.run_apart("-W", "default", *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTERNALERROR" not in result.stdout.str()


def said(text: str) -> list[str]:
    """Return the lines of the server in a text."""
    return re.findall(r"^during \w+", text, re.MULTILINE)


def outputs(project: Project) -> dict[str, list[str]]:
    """Return the texts of `system-out` in the `--junitxml` file, by the name of the test."""
    found: dict[str, list[str]] = {}
    for case in ET.parse(project.path / "junit.xml").iter("testcase"):
        texts = [one.text or "" for one in case.iter("system-out")]
        found.setdefault(case.get("name", ""), []).extend(texts)
    return found


def test_junit(talking: Project, workers: tuple[str, ...]) -> None:
    """The lines are in `system-out` of the failed tests, also if pytest writes nothing there."""
    run(talking, "--junitxml=junit.xml", *workers)
    found = outputs(talking)
    assert {name: said("\n".join(texts)) for name, texts in found.items()} == {
        "test_passes": [],
        "test_fails": ["during test_fails"],
        "test_teardown": ["during teardown"],
        "test_both": ["during test_both", "during teardown"],
        "test_setup": ["during setup"],
    }
    title = "Captured stdout call (log of plan step 'db' during this test)"
    assert found["test_fails"][0].startswith(f"{title:-^80}\n")


@pytest.mark.parametrize("passing", ["true", "false"])
@pytest.mark.parametrize("logging", ["all", "system-out", "log", "out-err", "system-err"])
def test_junit_with_captured_output(talking: Project, logging: str, passing: str) -> None:
    """What the test has printed is in the same `system-out`, and each line of the log once."""
    options = (f"junit_logging={logging}", f"junit_log_passing_tests={passing}")
    run(talking, "--junitxml=junit.xml", *(word for one in options for word in ("-o", one)))
    found = outputs(talking)
    assert said("\n".join(found["test_teardown"])) == ["during teardown"]
    assert said("\n".join(found["test_setup"])) == ["during setup"]
    output = "\n".join(found["test_fails"])
    assert output.count("during test_fails") == 1
    assert output.count("printed by test_fails") == (logging in ("all", "system-out", "out-err"))
    assert "during" not in "".join(outputs(talking)["test_passes"])


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], []),
        (["junit_logging=all"], ["during test_passes"]),
        (["junit_logging=all", "junit_log_passing_tests=false"], []),
    ],
)
def test_junit_with_the_logs_of_all_tests(
    talking: Project, options: list[str], shown: list[str]
) -> None:
    """Of tests that pass, the file has the lines if it has their captured output."""
    ini = [word for option in ("plan_logs=always", *options) for word in ("-o", option)]
    run(talking, "--junitxml=junit.xml", *ini)
    assert said("\n".join(outputs(talking)["test_passes"])) == shown


def test_pytest_html(talking: Project, workers: tuple[str, ...]) -> None:
    """The page shows the lines in the log of each failed test."""
    run(talking, "-p", "html", "-p", "metadata", "--html=page.html", *workers)
    page = (talking.path / "page.html").read_text()
    (blob,) = re.findall('data-jsonblob="(.*?)"', page, re.DOTALL)
    tests = json.loads(html.unescape(blob))["tests"]
    text = "\n".join(html.unescape(row["log"]) for rows in tests.values() for row in rows)
    assert sorted(set(said(text))) == SHOWN


def test_pytest_json_report(talking: Project, workers: tuple[str, ...]) -> None:
    """The lines follow what the test has printed."""
    args = ("-p", "pytest_jsonreport", "--json-report", "--json-report-file=r.json")
    run(talking, *args, *workers)
    tests = json.loads((talking.path / "r.json").read_text())["tests"]
    stages = [
        test.get(when, {}).get("stdout", "")
        for test in tests
        for when in ("setup", "call", "teardown")
    ]
    assert sorted(set(said("\n".join(stages)))) == SHOWN
    (output,) = [text for text in stages if "during test_fails" in text]
    assert output.startswith("printed by test_fails\n")


def test_reportlog(talking: Project, workers: tuple[str, ...]) -> None:
    """The lines are in a section of the report."""
    run(talking, "-p", "pytest_reportlog.plugin", "--report-log=log.jsonl", *workers)
    lines = (talking.path / "log.jsonl").read_text().splitlines()
    reports = [one for one in map(json.loads, lines) if one["$report_type"] == "TestReport"]
    texts = [text for one in reports for title, text in one["sections"] if "plan step" in title]
    assert sorted(set(said("\n".join(texts)))) == SHOWN


def test_allure(talking: Project, workers: tuple[str, ...]) -> None:
    """The lines are an attachment of the failed test."""
    run(talking, "-p", "allure_pytest", "--alluredir=allure", *workers)
    texts = [file.read_text() for file in (talking.path / "allure").glob("*-attachment.txt")]
    assert sorted(set(said("\n".join(texts)))) == SHOWN


def test_teamcity(talking: Project) -> None:
    """An IDE that reads service messages shows the lines with the failed test."""
    result = talking.run_apart("-W", "default", "-p", "teamcity.pytest_plugin", "--teamcity")
    messages = [line for line in result.outlines if "##teamcity[testStdOut" in line]
    found = [word for line in messages for word in re.findall(r"during [a-z_]+", line)]
    assert sorted(set(found)) == SHOWN
