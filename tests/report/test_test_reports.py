"""Failed steps and failed cleanups as pytest's own reports, solo and with workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.project import Project, plan_lines
from tests.xdist.cluster import Cluster, outcomes

# What every reporter does: it reads the reports in the process that shows them.
REPORTER = """
import json
import pytest

class Reporter:
    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        text = report.longreprtext
        data = {**data, "text": text, "has_plan_step": hasattr(report, "plan_step")}
        with open("reports.jsonl", "a") as file:
            file.write(json.dumps(data, default=str) + "\\n")

    def pytest_sessionfinish(self, session):
        with open("exitstatus.txt", "w") as file:
            file.write(str(int(session.exitstatus)))

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Reporter(config))
"""
STEPS = """
@pytest.mark.plan_step(needs=())
def good():
    yield 1
    print("closing good")
    raise OSError("still in use")

@pytest.mark.plan_step(needs=(), retries=1, retry_wait=0)
def db():
    print("asking for a port")
    raise RuntimeError("no port 5432")

@pytest.mark.plan_step(needs=["db"])
def seed(): pass

@pytest.mark.plan_step(needs=())
def absent(): pytest.skip("not here")

@pytest.mark.plan_step(needs=(), timeout="0.2s")
def slow(ctx): ctx.sleep(60)

@pytest.mark.plan_step(needs=())
def fine(): pass
"""
TESTS = """
def test_good(good, fine): pass
def test_seed(seed): pass
def test_absent(absent): pass
def test_slow(slow): pass
"""
ARGS = ("--plan-continue-on-error", "-p", "reporter")


def reports(folder: Path) -> list[dict[str, Any]]:
    """Return the reports that the reporter of the project has got."""
    return [json.loads(line) for line in (folder / "reports.jsonl").read_text().splitlines()]


def of_steps(folder: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the reports of steps by node id, phase and outcome; each exists once."""
    found = [report for report in reports(folder) if report["has_plan_step"]]
    by_key = {(one["nodeid"], one["when"], one["outcome"]): one for one in found}
    assert len(by_key) == len(found)
    return by_key


def check(folder: Path) -> None:
    """Check the reports of STEPS and TESTS."""
    found = of_steps(folder)
    assert set(found) == {
        ("conftest.py::db", "setup", "failed"),
        ("conftest.py::db", "teardown", "passed"),
        ("conftest.py::slow", "setup", "failed"),
        ("conftest.py::slow", "teardown", "passed"),
        ("conftest.py::good", "teardown", "failed"),
    }
    step = found["conftest.py::db", "setup", "failed"]
    line = 1 + next(
        number
        for number, text in enumerate((folder / "conftest.py").read_text().splitlines())
        if "no port 5432" in text
    )
    assert step["longrepr"]["reprcrash"] == {
        "path": str(folder / "conftest.py"),
        "lineno": line,
        "message": "RuntimeError: no port 5432",
    }
    (entry,) = step["longrepr"]["reprtraceback"]["reprentries"]
    assert "    def db():" in entry["data"]["lines"]
    assert '>       raise RuntimeError("no port 5432")' in entry["data"]["lines"]
    assert "attempts (2 allowed):" in step["text"]
    assert step["location"] == ["conftest.py", line - 4, "plan step 'db'"]
    assert step["sections"] == [
        [
            "Captured stdout and log of plan step 'db' (last lines)",
            "asking for a port\nasking for a port",
        ]
    ]
    assert 0 < step["duration"] < 60
    assert step["user_properties"] == [
        ["plan_step", "db"], ["plan_outcome", "failed"], ["plan_attempts", 2]
    ]  # fmt: skip
    cleanup = found["conftest.py::good", "teardown", "failed"]
    assert cleanup["longrepr"]["reprcrash"]["message"] == "OSError: still in use"
    assert ">       raise OSError" in cleanup["text"]
    assert [text for _, text in cleanup["sections"]] == ["closing good"]
    timed_out = found["conftest.py::slow", "setup", "failed"]
    assert "StepTimeoutError" in timed_out["longrepr"]["reprcrash"]["message"]
    assert timed_out["longrepr"]["reprcrash"]["path"] == str(folder / "conftest.py")
    tests = [report for report in reports(folder) if not report["has_plan_step"]]
    blocked = [report for report in tests if report.get("plan_blocked")]
    assert sorted(report["nodeid"] for report in blocked) == [
        "test_it.py::test_seed", "test_it.py::test_slow"
    ]  # fmt: skip
    (seed,) = (report for report in blocked if "seed" in report["nodeid"])
    reason = "plan step 'db' failed: RuntimeError: no port 5432"
    assert seed["text"].splitlines()[-1] == reason  # xdist puts the worker before it
    assert seed["longrepr"]["reprcrash"]["path"] == str(folder / "test_it.py")
    assert seed["longrepr"]["reprcrash"]["message"] == f"Blocked: {reason}"
    assert (folder / "exitstatus.txt").read_text() == "1"


def test_reports_of_a_run(project: Project) -> None:
    """Each failed step has one report with its traceback, as has each failed cleanup."""
    project.write("reporter.py", REPORTER)
    project.steps(STEPS)
    project.tests(TESTS)
    result = project.run_apart(*ARGS)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*= 1 passed, 1 skipped, 3 errors, 2 blocked in *"])
    check(project.path)


def test_reports_of_a_run_with_workers(cluster: Cluster) -> None:
    """With workers, the controller makes the reports, once."""
    cluster.write("reporter.py", REPORTER)
    cluster.steps(STEPS)
    cluster.tests(TESTS)
    result = cluster.two(*ARGS)
    assert outcomes(result) == {"passed": 1, "skipped": 1, "errors": 3, "blocked": 2}
    check(cluster.path)


def test_the_report_of_a_step_comes_before_those_of_tests(project: Project) -> None:
    """The report of a failed step is the first, and that of a failed cleanup comes after tests."""
    project.write("reporter.py", REPORTER)
    project.steps(STEPS)
    project.tests(TESTS)
    project.run_apart(*ARGS)
    of_step = [report["has_plan_step"] for report in reports(project.path)]
    assert of_step[:2] == [True, True]
    assert True not in of_step[2:-3]
    assert of_step[-3:] == [True, True, True]


def test_green_plan_has_no_report(project: Project) -> None:
    """Steps that succeed, are skipped or are not needed add no report."""
    project.write("reporter.py", REPORTER)
    project.steps(STEPS.replace('raise OSError("still in use")', ""))
    project.tests("def test_it(good, fine): pass\ndef test_absent(absent): pass")
    assert project.run_apart("-p", "reporter").ret == 0
    assert of_steps(project.path) == {}


def test_lf_and_sw_do_not_remember_a_step(project: Project) -> None:
    """The cache has only tests, so that `--lf` selects what has failed and nothing is stale."""
    project.steps(STEPS)
    project.tests(TESTS)
    project.run("--plan-continue-on-error")
    cache = project.path / ".pytest_cache" / "v" / "cache"
    assert set(json.loads((cache / "lastfailed").read_text())) == {
        "test_it.py::test_seed", "test_it.py::test_slow"
    }  # fmt: skip
    project.run("--plan-continue-on-error", "--sw")
    assert json.loads((cache / "stepwise").read_text())["last_failed"] == "test_it.py::test_seed"


def test_node_id_is_relative_to_rootdir(project: Project) -> None:
    """A step of a conftest in a folder has that folder in its node id, wherever pytest begins."""
    project.write("reporter.py", REPORTER)
    project.write("pytest.ini", "[pytest]\n")
    project.steps("@pytest.mark.plan_step\ndef db(): raise OSError", name="tests/a/conftest.py")
    project.tests("def test_it(db): pass", name="tests/a/test_it.py")
    result = project.pytester.run(
        "env", "-C", "tests", "python", "-m", "pytest", "-p", "pytest_plan", "-p", "reporter", "a"
    )
    result.stdout.fnmatch_lines(["ERROR a/conftest.py::db - OSError*", "*1 error, 1 blocked*"])
    assert ("tests/a/conftest.py::db", "setup", "failed") in of_steps(project.path / "tests")


def test_a_step_declared_in_code_has_a_report(project: Project) -> None:
    """A step that `pytest_plan_configure` has added has the node id of the file that adds it."""
    project.write("reporter.py", REPORTER)
    project.steps("""
    def pytest_plan_configure(plan):
        plan.add_step(GenericStep(exec=lambda: 1 / 0), name="db")
    """)
    project.tests("def test_it(db): pass")
    project.run_apart("-p", "reporter")
    report = of_steps(project.path)["conftest.py::db", "setup", "failed"]
    assert "ZeroDivisionError" in report["longrepr"]["reprcrash"]["message"]


def test_eager_step_is_reported_if_no_test_begins(project: Project) -> None:
    """After an error in collection no test begins; a failed eager step is reported at the end."""
    project.write("reporter.py", REPORTER)
    project.steps("@pytest.mark.plan_step(eager=True)\ndef db(): raise RuntimeError('no')")
    project.tests("import nothing_of_this_name")
    result = project.run_apart("-p", "reporter")
    result.stdout.fnmatch_lines(["*Interrupted: 1 error during collection*", "*= 2 errors in *"])
    assert ("conftest.py::db", "setup", "failed") in of_steps(project.path)


def test_eager_step_is_no_error_in_collection(project: Project) -> None:
    """A failed eager step blocks its tests and stops no others."""
    project.steps("@pytest.mark.plan_step(eager=True)\ndef db(): raise RuntimeError('no')")
    project.tests("def test_it(db): pass\ndef test_free(): pass")
    project.run().stdout.fnmatch_lines(["*= 1 passed, 1 error, 1 blocked in *"])


@pytest.mark.parametrize("style", ["auto", "long", "short", "line", "native"])
def test_error_without_a_frame_of_the_user(project: Project, style: str) -> None:
    """An error that none of the user's code has raised is shown at the step's declaration."""
    project.write("reporter.py", REPORTER)
    project.steps(
        "@pytest.mark.plan_step(timeout='0.1s')\ndef db(ctx): pytest.fail('a\\nb', False)"
    )
    project.tests("def test_it(db): pass")
    project.run_apart("-p", "reporter", f"--tb={style}").stdout.fnmatch_lines(["E * a", "E * b"])
    crash = of_steps(project.path)["conftest.py::db", "setup", "failed"]["longrepr"]["reprcrash"]
    assert crash["path"] == str(project.path / "conftest.py")
    assert crash["message"] == "Failed: a b"


def test_secrets_are_masked_in_all_parts(project: Project) -> None:
    """No part of a report has a secret or a control character, whatever a reporter reads."""
    project.write("reporter.py", REPORTER)
    project.steps("""
    @pytest.mark.plan_step(needs=())
    def token(): return Secret("hunter2-hunter2")

    @pytest.mark.plan_step(needs=["token"])
    def db(ctx):
        print("log hunter2-hunter2 \\x1b[2J")
        ctx.defer(print)
        try:
            raise OSError("hunter2-hunter2")
        except OSError as error:
            raise RuntimeError("hunter2-hunter2 \\x1b[2J") from error
    """)
    project.tests("def test_it(db): pass")
    project.run_apart("-p", "reporter")
    text = (project.path / "reports.jsonl").read_text()
    assert "***" in text
    assert "hunter2" not in text
    assert "\\u001b" not in text


RAISING = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    if hasattr(report, "plan_step"):
        raise ValueError("disk full")
"""


@pytest.mark.parametrize("args", [(), ("-p", "xdist", "-n", "2")], ids=["solo", "workers"])
def test_reporter_that_raises_has_one_line(project: Project, args: tuple[str, ...]) -> None:
    """A plugin that raises at the report of a step keeps neither tests nor cleanup from running."""
    project.write("raising.py", RAISING)
    project.steps(
        "@pytest.mark.plan_step(needs=())\ndef first():\n    yield\n    note('undone')\n"
        "@pytest.mark.plan_step(needs=())\ndef db(): raise OSError('no')",
        "@pytest.mark.plan_step(needs=())\ndef web(): raise OSError('no')",
    )
    project.tests("def test_it(db, web): pass\ndef test_free(first): note('free')")
    result = project.run_apart("-p", "raising", "--plan-continue-on-error", *args)
    assert result.ret == 1
    assert [line for line in plan_lines(result) if "disk full" in line] == [
        "plan: raising.py:7: a plugin has raised an error in pytest_runtest_logreport: "
        "ValueError: disk full"
    ]
    assert project.calls == ["free", "undone"]
    result.stdout.fnmatch_lines(
        ["*_ ERROR at setup of plan step 'db' _*", "*= 1 passed, 2 errors, 1 blocked in *"]
    )
    assert "INTERNALERROR" not in result.stdout.str()


def test_durations_list_a_failed_step(project: Project) -> None:
    """`--durations` has the time of a failed step, as that of any setup."""
    project.steps("import time\n@pytest.mark.plan_step\ndef db(): time.sleep(0.1); raise OSError")
    project.tests("def test_it(db): pass")
    project.run("--durations=3").stdout.fnmatch_lines(["0.1?s setup    conftest.py::db"])


def test_blocked_tests_are_tried_once(project: Project) -> None:
    """A plugin that runs a failed test again gets no chance at a test that cannot run."""
    project.write(
        "again.py",
        """
    from _pytest.runner import runtestprotocol

    def pytest_runtest_protocol(item, nextitem):
        for _ in range(3):
            runtestprotocol(item, nextitem=nextitem)
        return True
    """,
    )
    project.steps(
        "import pytest\n@pytest.mark.plan_step\ndef db(): raise OSError\n"
        "@pytest.hookimpl(wrapper=True, tryfirst=True)\n"
        "def pytest_runtest_setup(item):\n    note(item.name)\n    return (yield)"
    )
    project.tests("def test_it(db): pass\ndef test_free(): pass")
    project.run_apart("-p", "again").stdout.fnmatch_lines(["*= 3 passed, 1 error, 1 blocked in *"])
    assert project.calls == ["test_it", "test_free", "test_free", "test_free"]
