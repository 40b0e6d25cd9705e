"""Steps in JUnit XML: a test case and a property per step, no matter how the plan ends."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.report import junit
from tests.plugin.project import Project
from tests.report.support.accounts import account, cleanup, failed, step
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
ARGS = ("--junitxml=junit.xml", "--plan-continue-on-error")


def suites(folder: Path) -> dict[str, ET.Element]:
    """Return the suites of the file by name."""
    root = ET.parse(folder / "junit.xml").getroot()
    assert root.tag == "testsuites"
    found = {suite.get("name", ""): suite for suite in root}
    assert len(found) == len(root)
    return found


def check(folder: Path) -> None:
    """Check the file of STEPS and TESTS."""
    found = suites(folder)
    assert {name: suite.get("tests") for name, suite in found.items()} == {
        "pytest": "3",
        "plan": "5",
    }
    plan = found["plan"]
    assert (plan.get("errors"), plan.get("failures"), plan.get("skipped")) == ("2", "0", "2")
    cases = {case.get("name"): case for case in plan.iter("testcase")}
    messages = {
        name: [child.get("message") for child in case if child.tag in ("error", "skipped")]
        for name, case in cases.items()
    }
    assert messages == {
        "net": ["cleanup failed: OSError: still in use"],
        "db": [],
        "broken": ["ValueError: no <port>"],
        "child": ["blocked: needs 'broken': failed"],
        "absent": ["not here"],
    }
    assert "no <port>" in str(cases["broken"].findtext("error"))
    assert cases["broken"].findtext("system-out") == "last words \\x1b[2Jred"
    values = {p.get("name"): p.get("value", "") for p in plan.iter("property")}
    assert values["plan.step.child"] == "blocked"
    assert values["plan.step.net"].startswith("succeeded 0.")
    assert ", cleanup failed 0." in values["plan.step.net"]
    assert list(values)[:2] == ["plan.environment", "plan.outcome"]
    assert len(values) == 7


def test_every_step_has_a_test_case(project: Project) -> None:
    """Every step has a test case and a property, which include a failed cleanup."""
    project.steps(STEPS)
    project.tests(TESTS)
    result = project.run(*ARGS)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    check(project.path)


def test_every_step_has_a_test_case_with_workers(cluster: Cluster) -> None:
    """With workers, the controller writes the suite once."""
    cluster.steps(STEPS)
    cluster.tests(TESTS)
    cluster.two(*ARGS)
    check(cluster.path)


def test_suite_of_pytest_is_unchanged(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests and properties of pytest's own suite remain, whatever its name is."""
    monkeypatch.setenv("WHERE", "junit")
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("def test_it(db, record_property): record_property('a', 'ü <&>')")
    project.run("--junitxml=$WHERE.xml", "-o", "junit_suite_name=mine", "-o", "junit_family=xunit1")
    found = suites(project.path)
    assert list(found) == ["mine", "plan"]
    assert [case.get("name") for case in found["mine"].iter("testcase")] == ["test_it"]
    assert [p.get("value") for p in found["mine"].iter("property")] == ["ü <&>"]


def test_broken_file_is_a_warning(project: Project) -> None:
    """If the file is not valid XML, a warning names it, and the exit status is unchanged."""
    project.steps("""
    from pathlib import Path

    @pytest.mark.plan_step
    def db():
        yield
        Path("junit.xml").write_text("no xml")
    """)
    project.tests("def test_it(db): pass")
    result = project.run("--junitxml=junit.xml")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*could not add the plan steps to *junit.xml: ParseError: *"])


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
    project.run("--junitxml=junit.xml")
    text = (project.path / "junit.xml").read_text()
    assert "log ***" in text
    assert "hunter2-hunter2" not in text


@pytest.mark.parametrize("outcome", list(CleanupOutcome))
def test_every_cleanup(outcome: CleanupOutcome) -> None:
    """A cleanup that left something behind is an error of its step, after the step's own error."""
    case = junit.suite(account(failed("db", cleanup=cleanup(outcome, error="gone")))).find(
        "testcase"
    )
    assert case is not None
    (message,) = [error.get("message", "") for error in case.iter("error")]
    assert message.startswith("RuntimeError: no")
    fine = {CleanupOutcome.NONE, CleanupOutcome.SUCCEEDED, CleanupOutcome.KEPT}
    assert ("gone" in message) is (outcome not in fine)


@pytest.mark.parametrize("outcome", list(StepOutcome))
def test_every_outcome(outcome: StepOutcome) -> None:
    """Failed steps are errors, steps that did not run are skipped, and all others are neither."""
    case = junit.suite(account(step("db", outcome=outcome, reason="because"))).find("testcase")
    assert case is not None
    tags = [child.tag for child in case]
    expected = ["error"] if outcome.is_failure else ["skipped"]
    assert tags == ([] if outcome.provides else expected)
