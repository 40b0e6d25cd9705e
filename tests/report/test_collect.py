"""The data of reports: steps and tests, solo and with workers, and no secrets."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.plugin.project import ROOT, Project
from tests.xdist.cluster import Cluster

SCHEMA = json.loads((ROOT / "docs/reference/report-2.schema.json").read_text())

STEPS = """
@pytest.mark.plan_step(needs=())
def net():
    yield
    raise OSError("still in use")

@pytest.mark.plan_step(retries=1, retry_wait=0.05)
def db(ctx, net):
    if ctx.attempt == 1: raise RuntimeError("no port")
    ctx.defer(print)

@pytest.mark.plan_step
def broken(db): raise ValueError("no")

@pytest.mark.plan_step
def child(broken): pass

@pytest.mark.plan_step(needs=())
def absent(): pytest.skip("not here")

@pytest.mark.plan_step(needs=())
def unused(): pass
"""
TESTS = """
def test_passed(db): pass
def test_failed(db): assert False
def test_blocked(broken): pass
def test_child(child): pass
def test_absent(absent): pass
@pytest.fixture
def bad(): raise RuntimeError("fixture")
def test_set_up(bad): pass
@pytest.fixture
def late():
    yield
    raise RuntimeError("fixture")
def test_teardown(late): pass
@pytest.mark.xfail
def test_expected(): assert False
@pytest.mark.xfail
def test_unexpected(): pass
"""
COUNTS = {
    "passed": 1,
    "failed": 1,
    "error": 2,
    "blocked": 2,
    "skipped": 1,
    "xfailed": 1,
    "xpassed": 1,
    "not_run": 0,
}


def report(folder: Path) -> dict[str, Any]:
    """Return the JSON report of a run, checked against its schema."""
    found: dict[str, Any] = json.loads((folder / "plan.json").read_text())
    jsonschema.validate(found, SCHEMA)
    return found


def check_report(found: dict[str, Any]) -> None:
    """Check the report of STEPS and TESTS."""
    assert (found["outcome"], found["plan"]["outcome"]) == ("failed", "failed")
    assert found["command"].startswith("pytest ")
    assert "--plan-report=plan.json" in found["command"]
    assert found["host"] == platform.node()
    assert found["versions"]["pytest"] == pytest.__version__
    assert found["environment"] == f"run-{found['run_id']}"
    assert found["tests"] == COUNTS
    steps = {step["name"]: step for step in found["steps"]}
    assert {name: step["outcome"] for name, step in steps.items()} == {
        "net": "succeeded",
        "db": "succeeded",
        "broken": "failed",
        "child": "blocked",
        "absent": "skipped",
    }
    assert steps["net"]["cleanup"]["error"] == "OSError: still in use"
    assert steps["net"]["cleanup"]["outcome"] == "failed"
    assert steps["db"]["needs"] == ["net"]
    assert [attempt["error"] for attempt in steps["db"]["attempts"]] == [
        "RuntimeError: no port",
        None,
    ]
    assert steps["db"]["seconds"] >= 0.05
    assert steps["db"]["started"] >= steps["net"]["started"] + steps["net"]["seconds"]
    assert steps["net"]["cleanup"]["started"] > steps["db"]["started"] + steps["db"]["seconds"]
    assert steps["broken"]["reason"] == "ValueError: no"
    assert steps["child"]["started"] is None
    assert steps["child"]["cleanup"] == {
        "outcome": "none", "started": None, "seconds": 0, "error": None
    }  # fmt: skip
    assert steps["absent"]["reason"] == "not here"


def test_all_outcomes(project: Project) -> None:
    """The report has the right outcome for every step, cleanup and test."""
    project.steps(STEPS)
    project.tests(TESTS)
    project.run("--plan-report=plan.json", "--plan-continue-on-error")
    check_report(report(project.path))


def test_all_outcomes_with_workers(cluster: Cluster) -> None:
    """With workers, the controller writes the same report as a solo run does."""
    cluster.steps(STEPS)
    cluster.tests(TESTS)
    cluster.two(
        "--plan-report=plan.json", "--plan-report=plan.trace.json", "--plan-continue-on-error"
    )
    check_report(report(cluster.path))
    events = json.loads((cluster.path / "plan.trace.json").read_text())["traceEvents"]
    threads = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {"gw0", "gw1"} <= threads


def test_tests_are_between_provisioning_and_cleanup(project: Project) -> None:
    """Steps and tests share a time axis, although pytest and the engine use different clocks."""
    project.steps("""
    import time
    @pytest.mark.plan_step
    def db():
        time.sleep(0.05)
        yield
    """)
    project.tests("import time\ndef test_it(db): time.sleep(0.05)")
    project.run("--plan-report=plan.trace.json")
    events = json.loads((project.path / "plan.trace.json").read_text())["traceEvents"]
    spans = {event["cat"]: event for event in events if event["ph"] == "X"}
    step, test, cleanup = spans["step"], spans["test"], spans["cleanup"]
    slack = 5_000  # microseconds
    assert step["ts"] + step["dur"] <= test["ts"] + slack
    assert test["ts"] + test["dur"] <= cleanup["ts"] + slack
    assert test["dur"] >= 50_000


def test_limit_leaves_tests_not_run(project: Project) -> None:
    """A plan that exceeds its limit is `timed_out`, and tests that never began are counted."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("""
    import time
    def test_long(db):
        while True: time.sleep(0.01)
    def test_next(db): pass
    def test_last(db): pass
    """)
    project.run_apart("--plan-report=plan.json", "--plan-limit=0.5")
    found = report(project.path)
    assert (found["outcome"], found["plan"]["outcome"]) == ("timed_out", "timed_out")
    assert found["limit_seconds"] == 0.5
    assert (found["tests"]["failed"], found["tests"]["not_run"]) == (1, 2)


def test_interrupted_test_counts_as_not_run(project: Project) -> None:
    """After Ctrl-C the plan is `cancelled`, and the interrupted test counts as not run."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("""
    import signal
    def test_first(db): pass
    def test_stop(db): signal.raise_signal(signal.SIGINT)
    def test_last(db): pass
    """)
    result = project.run_apart("--plan-report=plan.json")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    found = report(project.path)
    assert (found["outcome"], found["plan"]["outcome"]) == ("cancelled", "cancelled")
    assert {name: count for name, count in found["tests"].items() if count} == {
        "passed": 1,
        "not_run": 2,
    }


@pytest.mark.parametrize(
    ("test", "outcome"),
    [
        ("def test_it(db): pass", "succeeded"),
        ("def test_it(db): assert False", "failed"),
        ("@pytest.mark.xfail\ndef test_it(db): assert False", "succeeded"),
        ("def test_it(db, missing): pass", "failed"),
        ("def test_it(request): request.getfixturevalue('db')", "failed"),
    ],
)
def test_outcome_of_the_run_includes_its_tests(project: Project, test: str, outcome: str) -> None:
    """The run has failed if a test has, although the plan succeeded."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests(test)
    result = project.run("--plan-report=plan.json")
    found = report(project.path)
    assert (found["outcome"], found["plan"]["outcome"]) == (outcome, "succeeded")
    assert (result.ret == 0) is (outcome == "succeeded")


def test_outcome_of_the_run_includes_errors_in_collection(project: Project) -> None:
    """A module that cannot be imported is a failure of the run."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("def test_it(db): pass")
    project.tests("import nothing_of_this_name", name="test_other.py")
    project.run("--plan-report=plan.json", "--continue-on-collection-errors")
    found = report(project.path)
    assert (found["outcome"], found["plan"]["outcome"]) == ("failed", "succeeded")


@pytest.mark.parametrize("needs", ["db", ""])
def test_run_without_need(project: Project, needs: str) -> None:
    """If no test needs a step, the report has no steps but still counts the tests."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests(f"def test_it({needs}): pass")
    project.run("--plan-report=plan.json")
    found = report(project.path)
    assert [step["name"] for step in found["steps"]] == [needs][: len(needs)]
    assert found["tests"]["passed"] == 1


def test_rerun_test_counts_once(project: Project) -> None:
    """A test that pytest-rerunfailures repeats counts once, with its last outcome."""
    pytest.importorskip("pytest_rerunfailures")
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("""
    runs = []
    def test_it(db):
        runs.append(1)
        assert len(runs) == 3
    """)
    project.run_apart("-p", "pytest_rerunfailures", "--reruns=3", "--plan-report=plan.json")
    counts = report(project.path)["tests"]
    assert {name: count for name, count in counts.items() if count} == {"passed": 1}


@pytest.mark.parametrize("ending", [".json", ".md", ".mmd", ".trace.json"])
def test_secrets_are_masked(project: Project, ending: str) -> None:
    """Secrets are `***` in errors, logs, reasons, cleanups and node ids."""
    project.steps("""
    @pytest.mark.plan_step(needs=())
    def token():
        yield Secret("hunter2-hunter2")
        raise OSError("cleanup hunter2-hunter2")

    @pytest.mark.plan_step(needs=["token"])
    def db(ctx):
        print("log hunter2-hunter2")
        ctx.defer(print)
        raise RuntimeError("error hunter2-hunter2")
    """)
    project.tests("""
    @pytest.mark.parametrize("word", ["hunter2-hunter2"])
    def test_it(token, word): assert not word
    def test_db(db): pass
    """)
    project.run(f"--plan-report=plan{ending}")
    text = (project.path / f"plan{ending}").read_text()
    assert "hunter2" not in text
    assert "***" in text or ending in (".md", ".mmd")
