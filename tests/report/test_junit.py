"""Steps in JUnit XML: failures are test cases, and every step is a property."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.plugin.project import Project
from tests.xdist.cluster import Cluster

STEPS = """
@pytest.mark.plan_step(needs=())
def net():
    yield
    raise OSError("still in use")

@pytest.mark.plan_step
def db(net): pass

@pytest.mark.plan_step(needs=["db"])
def broken():
    print("last words \\x1b[2J\\x1b[31mred\\x1b[0m")
    raise ValueError("no <port>")

@pytest.mark.plan_step
def child(broken): pass

@pytest.mark.plan_step(needs=())
def absent(): pytest.skip("not here")
"""
TESTS = """
def test_db(db): pass
def test_child(child): pass
def test_absent(absent): pass
"""
ARGS = ("--junitxml=junit.xml", "-o", "junit_logging=all", "--plan-continue-on-error")

# The elements that a schema of Jenkins' xUnit plugin (junit-10.xsd) knows: their attributes, and
# what may be in them. It has no `properties` in a test case.
_RESULT = {"type", "message"}, set[str]()
SCHEMA = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "skipped", "timestamp", "hostname"},
        {"properties", "testcase"},
    ),
    "properties": (set[str](), {"property"}),
    "property": ({"name", "value"}, set[str]()),
    "testcase": (
        {"name", "time", "classname"}, {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "error": _RESULT, "failure": _RESULT, "skipped": _RESULT,
    "system-out": (set[str](), set[str]()), "system-err": (set[str](), set[str]()),
}  # fmt: skip


def check_schema(element: ET.Element) -> None:
    """Check that Jenkins' schema allows an element and all that is in it."""
    attributes, children = SCHEMA[element.tag]
    assert set(element.attrib) <= attributes, element.tag
    assert {child.tag for child in element} <= children, (element.tag, element.attrib)
    for child in element:
        check_schema(child)


def suite_of(folder: Path) -> ET.Element:
    """Return the only suite of the file."""
    root = ET.parse(folder / "junit.xml").getroot()
    assert root.tag == "testsuites"
    (suite,) = root
    return suite


def properties_of(suite: ET.Element) -> dict[str, str]:
    """Return the properties of the suite itself."""
    found = suite.findall("./properties/property")
    return {one.get("name", ""): one.get("value", "") for one in found}


def check(folder: Path) -> None:
    """Check the file of STEPS and TESTS."""
    suite = suite_of(folder)
    check_schema(suite)
    counts = [suite.get(name) for name in ("tests", "errors", "failures", "skipped")]
    assert counts == ["5", "3", "0", "1"]
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    messages = {
        name: [child.get("message") for child in case if child.tag in ("error", "skipped")]
        for name, case in cases.items()
    }
    assert messages == {
        "net": ['failed on teardown with "OSError: still in use"'],
        "broken": ['failed on setup with "ValueError: no <port>"'],
        "test_db": [],
        "test_child": [
            "failed on setup with \"Blocked: plan step 'broken' failed: ValueError: no <port>\""
        ],
        "test_absent": ["plan step 'absent': not here"],
    }
    assert '>       raise ValueError("no <port>")' in str(cases["broken"].findtext("error"))
    assert "last words \\x1b[2Jred" in str(cases["broken"].findtext("system-out"))
    values = properties_of(suite)
    assert values["plan.step.child"] == "blocked"
    assert values["plan.step.net"].startswith("succeeded 0.")
    assert ", cleanup failed 0." in values["plan.step.net"]
    assert values["plan.outcome"] == "failed"
    assert list(values)[:3] == ["plan.environment", "plan.outcome", "plan.verdict"]
    assert len(values) == 8


def test_failures_are_test_cases_and_steps_are_properties(project: Project) -> None:
    """A failed step and a failed cleanup are one test case each; every step is a property."""
    project.steps(STEPS)
    project.tests(TESTS)
    result = project.run(*ARGS)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    check(project.path)


def test_failures_are_test_cases_with_workers(cluster: Cluster) -> None:
    """With workers, the controller adds them once."""
    cluster.steps(STEPS)
    cluster.tests(TESTS)
    cluster.two(*ARGS)
    check(cluster.path)


def test_steps_that_succeed_do_not_count(project: Project) -> None:
    """A green plan adds no test case to the suite; a failed cleanup makes its outcome `failed`."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("def test_it(db): pass")
    assert project.run("--junitxml=junit.xml").ret == 0
    suite = suite_of(project.path)
    assert [case.get("name") for case in suite.iter("testcase")] == ["test_it"]
    assert properties_of(suite)["plan.outcome"] == "succeeded"


def test_suite_of_pytest_is_unchanged(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests and properties of pytest's own suite remain, whatever its name is."""
    monkeypatch.setenv("WHERE", "junit")
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("def test_it(db, record_property): record_property('a', 'ü <&>')")
    project.run("--junitxml=$WHERE.xml", "-o", "junit_suite_name=mine", "-o", "junit_family=xunit1")
    suite = suite_of(project.path)
    assert suite.get("name") == "mine"
    assert [case.get("name") for case in suite.iter("testcase")] == ["test_it"]
    assert [p.get("value") for p in suite.findall("./testcase//property")] == ["ü <&>"]


def test_no_suite_without_a_file(project: Project) -> None:
    """Without --junitxml, or with -p no:junitxml, nothing is written."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("def test_it(db): pass")
    assert project.run().ret == 0
    assert project.run("-p", "no:junitxml").ret == 0
    assert not list(project.path.glob("*.xml"))


def test_secrets_are_masked(project: Project) -> None:
    """Secrets are masked in errors and logs."""
    project.steps("""
    @pytest.mark.plan_step(needs=())
    def token(): return Secret("hunter2-hunter2")

    @pytest.mark.plan_step(needs=["token"])
    def db():
        print("log hunter2-hunter2")
        raise RuntimeError("error " + "hunter2-" * 2)
    """)
    project.tests("def test_db(db): pass")
    project.run("--junitxml=junit.xml", "-o", "junit_logging=all")
    text = (project.path / "junit.xml").read_text()
    assert "log ***" in text
    assert "hunter2-hunter2" not in text
