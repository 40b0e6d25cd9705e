"""The verdict on a run: tests, plan and cleanup together, the same in every report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import CleanupResult, PlanResult, StepResult
from pytest_plan.report import verdict
from tests.plugin.project import Project
from tests.report.test_junit import properties_of, suite_of
from tests.xdist.cluster import Cluster

ENDINGS = (".json", ".md", ".mmd", ".trace.json")
STEPS = """
@pytest.mark.plan_step
def net():
    yield
    raise OSError("still in use")

@pytest.mark.plan_step
def mail(ctx):
    ctx.log("calling the mail server")
    raise OSError("no mail server")

@pytest.mark.plan_step(needs=["mail"])
def inbox(): pass

@pytest.mark.plan_step
def search(): pass
"""
TESTS = """
def test_net(net): pass
def test_bad(net): assert not "bad"
def test_mail(mail): pass
def test_inbox(inbox): pass
def test_search(search): pass
def test_search_more(search): pass
"""


def reports(folder: Path) -> dict[str, str]:
    """Return the outcome of the run in each of its reports, as each of them words it."""
    found = {name: (folder / f"plan{name}").read_text() for name in ENDINGS}
    trace = json.loads(found[".trace.json"])["otherData"]["verdict"]
    return {
        ".json": json.loads(found[".json"])["outcome"],
        ".md": found[".md"].partition("\n")[0].removeprefix("## Run "),
        ".mmd": re.findall(r"%% Run (.+)", found[".mmd"])[0],
        ".trace.json": trace.partition(".")[0].removeprefix("Run "),
        "junit": properties_of(suite_of(folder))["plan.verdict"],
    }


def check(folder: Path, result: pytest.RunResult, outcome: str, line: str | None) -> None:
    """Check the verdict of a run in its reports, and at the end of the terminal."""
    assert set(reports(folder).values()) == {outcome}
    lines = [re.sub("\x1b\\[[0-9;]*m", "", one) for one in result.outlines]
    verdicts = [number for number, text in enumerate(lines) if text.startswith("Run ")]
    assert [lines[number] for number in verdicts] == ([] if line is None else [line])
    rest = lines[verdicts[0] + 1 :] if verdicts else []
    assert not [one for one in rest if re.match("=.*(plan|short)|plan|FAILED|ERROR", one)]


def arguments(*args: str) -> list[str]:
    """Return arguments with which every report is written, in addition to `args`."""
    return [*(f"--plan-report=plan{name}" for name in ENDINGS), "--junitxml=junit.xml", *args]


ALL_BAD = (
    "Run failed. Tests: 1 failed, 4 blocked, 1 passed. Plan: step 'mail' failed (conftest.py:LINE)."
    " Cleanup: of step 'net' failed (conftest.py:LINE)."
)


@pytest.mark.parametrize("args", [(), ("-q",), ("-q", "-q"), ("-v", "-rA"), ("-p", "xdist", "-n2")])
def test_every_report_has_the_verdict_on_tests_plan_and_cleanup(
    cluster: Cluster, args: tuple[str, ...]
) -> None:
    """A failed test, a failed step and a failed cleanup are one verdict, and it comes last."""
    cluster.steps(STEPS)
    cluster.tests(TESTS)
    result = cluster.apart(*arguments(*args))
    text = result.stdout.str()
    places = dict(re.findall(r"step '(\w+)' failed \((conftest\.py:\d+)\)", text))
    line = ALL_BAD
    for name in ("mail", "net"):
        line = line.replace("conftest.py:LINE", places[name], 1)
    check(cluster.path, result, "failed", line)
    if "-rA" not in args:
        failed = "plan step 'mail' failed: OSError: no mail server"
        assert f"2 tests blocked: {failed} ({places['mail']})" in text
        untried = "plan step 'search' did not run: step 'mail' failed"
        assert f"2 tests blocked: {untried} (conftest.py:" in text
    (log,) = re.findall("^The whole log: (.*)$", text, re.MULTILINE)
    assert "calling the mail server" in (cluster.path / log).read_text()
    advice = "Step 'search' was not tried: step 'mail' failed; --plan-continue-on-error tries it"
    assert text.count(advice) == 1
    assert "search" in (cluster.path / "plan.md").read_text().partition("\n| step")[0]


@pytest.mark.parametrize(
    ("steps", "tests", "outcome", "line"),
    [
        ("return 1", "pass", "succeeded", None),
        (
            "return 1",
            "assert 0",
            "failed",
            "Run failed. Tests: 1 failed. Plan: 1 step succeeded. Cleanup: nothing to undo.",
        ),
        (
            "yield; raise OSError('x')",
            "pass",
            "failed",
            "Run failed. Tests: 1 passed. Plan: 1 step succeeded. "
            "Cleanup: of step 'db' failed (conftest.py:5).",
        ),
        (
            "yield",
            "raise KeyboardInterrupt",
            "cancelled",
            "Run cancelled. Tests: 1 not run. Plan: 1 step succeeded. Cleanup: succeeded.",
        ),
        (
            "yield",
            "pytest.exit('enough')",
            "cancelled",
            "Run cancelled. Tests: 1 not run. Plan: 1 step succeeded. Cleanup: succeeded.",
        ),
    ],
    ids=["green", "test", "cleanup", "interrupted", "exit"],
)
def test_one_bad_part_makes_the_verdict(
    project: Project, steps: str, tests: str, outcome: str, line: str | None
) -> None:
    """Each of test, cleanup and interruption changes the verdict alone; a green run has no line."""
    project.steps(f"@pytest.mark.plan_step\ndef db(): {steps}")
    project.tests(f"import pytest\ndef test_it(db): {tests}")
    result = project.run_apart(*arguments())
    check(project.path, result, outcome, line)
    assert "--plan-continue-on-error" not in result.stdout.str()


def test_errors_in_collection_are_counted(project: Project) -> None:
    """A module that cannot be imported is part of the verdict."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("def test_it(db): pass")
    project.tests("import nothing_of_this_name", name="test_other.py")
    result = project.run_apart(*arguments("--continue-on-collection-errors"))
    tests = "1 passed, 1 error in collection"
    line = f"Run failed. Tests: {tests}. Plan: 1 step succeeded. Cleanup: nothing to undo."
    check(project.path, result, "failed", line)


def test_steps_with_a_failed_need_are_not_worth_a_try() -> None:
    """Only steps that need no failed step, directly or not, could be tried."""
    failed, blocked = StepOutcome.FAILED, StepOutcome.BLOCKED
    steps = [
        StepResult("db", failed, origin="c.py:1"),
        StepResult("web", blocked, needs=("db",)),
        StepResult("shop", blocked, needs=("web",)),
        StepResult("mail", blocked),
        StepResult("inbox", blocked, needs=("mail",)),
        StepResult("later", StepOutcome.PENDING),
    ]
    whole = {step.name: step for step in steps}
    result = PlanResult("1", failed, "step 'db' failed", 1.0, None, whole)
    found = verdict.judge(result, {}, has_failed=True, session=StepOutcome.SUCCEEDED)
    assert found.untried == ("mail", "inbox")
    assert found.advice == (
        "Steps 'mail', 'inbox' were not tried: step 'db' failed; "
        "--plan-continue-on-error tries them"
    )
    assert found.line == (
        "Run failed. Tests: none ran. Plan: step 'db' failed (c.py:1). Cleanup: nothing to undo."
    )


def test_long_lists_are_cut() -> None:
    """The line names the first three of many failures and says how many more there are."""
    cleanup = CleanupResult(CleanupOutcome.ABANDONED)
    names = [f"s{number}" for number in range(50)]
    steps = {name: StepResult(name, StepOutcome.FAILED, cleanup=cleanup) for name in names}
    result = PlanResult("1", StepOutcome.FAILED, None, 1.0, None, steps)
    found = verdict.judge(result, {"failed": 5000}, has_failed=True, session=StepOutcome.FAILED)
    assert "'s2'" in found.plan
    assert "'s3'" not in found.plan
    assert found.line.count("and 47 more") == 2
    assert "5,000 failed" in found.line
