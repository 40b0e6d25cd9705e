"""Failed steps, failed cleanups and blocked tests in the reports of other plugins."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.project import Project

STEPS = """
@pytest.mark.plan_step(needs=())
def good():
    yield 1
    raise OSError("still in use")

@pytest.mark.plan_step(needs=())
def db(ctx):
    print("asking for a port")
    raise RuntimeError("no port 5432")

@pytest.mark.plan_step(needs=())
def both(ctx):
    ctx.defer(int, "no number")
    raise RuntimeError("no disk")
"""
TESTS = """
def test_good(good): pass
def test_db(db): pass
def test_both(both): pass
"""
ARGS = ("--plan-continue-on-error", "--color=no")


@pytest.fixture(params=[(), ("-p", "xdist", "-n", "2")], ids=["solo", "workers"])
def workers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The arguments for a run without and with workers."""
    return tuple(request.param)


@pytest.fixture
def broken(project: Project) -> Project:
    """A project with a step that fails, one whose cleanup fails, and one with both."""
    project.steps(STEPS)
    project.tests(TESTS)
    return project


def run(project: Project, *args: str) -> pytest.RunResult:
    """Run pytest; the warnings of other plugins are not errors."""
    result = project.run_apart("-W", "default", *ARGS, *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTERNALERROR" not in result.stdout.str()
    assert "raised an error" not in result.stdout.str()
    return result


def test_pytest_html(broken: Project, workers: tuple[str, ...]) -> None:
    """pytest-html shows each failure once, with the line of the user's code and the log."""
    run(broken, "-p", "html", "-p", "metadata", "--html=page.html", *workers)
    page = (broken.path / "page.html").read_text()
    (blob,) = re.findall('data-jsonblob="(.*?)"', page, re.DOTALL)
    tests = json.loads(html.unescape(blob))["tests"]
    cells = {name: [one["resultsTableRow"][1] for one in rows] for name, rows in tests.items()}
    assert {name: len(rows) for name, rows in cells.items()} == {
        "conftest.py::db": 1,
        "conftest.py::good": 1,
        "conftest.py::both": 2,
        "test_it.py::test_good": 1,
        "test_it.py::test_db": 1,
        "test_it.py::test_both": 1,
    }
    log = html.unescape(tests["conftest.py::db"][0]["log"])
    assert '>       raise RuntimeError("no port 5432")' in log
    assert "asking for a port" in log
    assert "6 Errors" in page


def test_pytest_json_report(broken: Project, workers: tuple[str, ...]) -> None:
    """pytest-json-report has the place, message and output of each failure, and is red."""
    run(broken, "-p", "pytest_jsonreport", "--json-report", "--json-report-file=r.json", *workers)
    report = json.loads((broken.path / "r.json").read_text())
    assert report["exitcode"] == 1
    assert report["summary"] == {
        "passed": 1, "error": 3, "blocked": 2, "total": 6, "collected": 3
    }  # fmt: skip
    tests = {test["nodeid"]: test for test in report["tests"]}
    setup = tests["conftest.py::db"]["setup"]
    assert setup["crash"]["path"] == str(broken.path / "conftest.py")
    assert setup["crash"]["message"] == "RuntimeError: no port 5432"
    assert setup["stdout"] == "asking for a port"
    assert "still in use" in tests["conftest.py::good"]["teardown"]["longrepr"]
    assert {"setup", "teardown"} <= set(tests["conftest.py::both"])
    assert tests["test_it.py::test_db"]["outcome"] == "blocked"


def _allure(folder: Path) -> dict[str, dict[str, Any]]:
    files = (folder / "allure").glob("*-result.json")
    return {found["name"]: found for found in (json.loads(one.read_text()) for one in files)}


def test_allure(broken: Project, workers: tuple[str, ...]) -> None:
    """In Allure steps and blocked tests are broken, and the step has its traceback and log."""
    run(broken, "-p", "allure_pytest", "--alluredir=allure", *workers)
    found = _allure(broken.path)
    assert {name: one["status"] for name, one in found.items()} == {
        "plan step 'db'": "broken",
        "plan step 'both'": "broken",
        "cleanup of plan step 'both'": "broken",
        "cleanup of plan step 'good'": "broken",
        "test_good": "passed",
        "test_db": "broken",
        "test_both": "broken",
    }
    step = found["plan step 'db'"]
    assert step["statusDetails"]["message"] == "RuntimeError: no port 5432"
    assert '>       raise RuntimeError("no port 5432")' in step["statusDetails"]["trace"]
    (log,) = step["attachments"]
    assert (broken.path / "allure" / log["source"]).read_text() == "asking for a port"
    assert step["stop"] >= step["start"] > 1_500_000_000_000
    blocked = found["test_db"]["statusDetails"]
    assert blocked["message"] == "Blocked: plan step 'db' failed: RuntimeError: no port 5432"
    assert blocked["trace"].splitlines()[-1] == "plan step 'db' failed: RuntimeError: no port 5432"


def test_allure_of_another_version(broken: Project) -> None:
    """If the internals of allure-pytest differ, its results lack the steps, and nothing else."""
    broken.write(
        "other_allure.py",
        """
    import allure_commons.model2
    del allure_commons.model2.StatusDetails
    """,
    )
    result = run(broken, "-p", "allure_pytest", "-p", "other_allure", "--alluredir=allure")
    assert "plan step 'db'" not in _allure(broken.path)
    result.stdout.fnmatch_lines(["*= 1 passed, 4 errors, 2 blocked in *"])


def test_sugar(broken: Project, workers: tuple[str, ...]) -> None:
    """pytest-sugar prints each failure once, and its progress ends at 100 %."""
    said = run(broken, "-p", "pytest_sugar", "--force-sugar", *workers).stdout.str()
    assert said.count('>       raise RuntimeError("no port 5432")') == 1
    assert len(re.findall("^asking for a port$", said, re.MULTILINE)) == 1
    assert said.count('>       raise OSError("still in use")') == 1
    assert max(int(number) for number in re.findall(r"(\d+)% [█▏▎▍▌▋▊▉]", said)) == 100


def test_blocked_tests_are_not_rerun(broken: Project, workers: tuple[str, ...]) -> None:
    """pytest-rerunfailures tries no blocked test again, and still tries other failed tests."""
    broken.tests("def test_failed(): assert False", name="test_other.py")
    result = run(broken, "-p", "pytest_rerunfailures", "--reruns=2", *workers)
    result.stdout.fnmatch_lines(["*= 1 failed, 1 passed,*4 errors, 2 blocked, 2 rerun in *"])
