"""The page about other reports: the files of each plugin have the entries that the page lists."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import examples
from tests.xdist.cluster import Cluster, outcomes

PAGE = "how-to/with-reports"
PLUGINS = ("pytest_html.plugin", "pytest_metadata.plugin", "pytest_jsonreport.plugin",
           "allure_pytest.plugin")  # fmt: skip
STEP = "conftest.py::payment"
CLEANUP = "conftest.py::shop"
PASSED = "test_orders.py::test_price"
BLOCKED_BY = "plan step 'payment' failed: ConnectionError: no answer from payments.example.com"
BLOCKED = ("test_orders.py::test_pay", "test_orders.py::test_refund")


@pytest.fixture(params=[0, 2])
def folder(request: pytest.FixtureRequest, cluster: Cluster) -> Path:
    """The project of the page after its run, solo and with workers."""
    for plugin in PLUGINS:
        pytest.importorskip(plugin.partition(".")[0])
    for name, text in examples(PAGE).items():
        cluster.write(name, text)
    plugins = [option for plugin in PLUGINS for option in ("-p", plugin)]
    reports = ["--html=report.html", "--json-report", "--alluredir=allure"]
    result = cluster.apart(
        "-n", str(request.param), *plugins, *reports, "--plan-continue-on-error", "-W", "default"
    )
    assert result.ret == 1
    assert outcomes(result) == {"passed": 1, "blocked": 2, "errors": 2}
    return cluster.path


def test_html(folder: Path) -> None:
    """pytest-html has one entry for each test, the failed step and the failed cleanup."""
    data = re.search(r'data-jsonblob="([^"]*)"', (folder / "report.html").read_text())
    assert data is not None
    entries = json.loads(html.unescape(data[1]))["tests"]
    results = {name: [one["result"] for one in entry] for name, entry in entries.items()}
    assert results == {
        PASSED: ["Passed"],
        **{name: ["Error"] for name in (STEP, CLEANUP, *BLOCKED)},
    }
    logs = {name: html.unescape(entry[0]["log"]) for name, entry in entries.items()}
    assert "raise ConnectionError(" in logs[STEP]
    assert "raise OSError(" in logs[CLEANUP]
    for name in BLOCKED:
        # A worker adds a line with its interpreter to each report of a test that did not pass.
        lines = [line for line in logs[name].split("\n") if line and not line.startswith("[gw")]
        assert lines == [BLOCKED_BY]


def test_json_report(folder: Path) -> None:
    """pytest-json-report has the outcomes, the place of each failure, and the exit status."""
    report = json.loads((folder / ".report.json").read_text())
    assert report["exitcode"] == 1
    tests = {test["nodeid"]: test for test in report["tests"]}
    assert len(tests) == len(report["tests"]) == 5
    assert {name: test["outcome"] for name, test in tests.items()} == {
        PASSED: "passed",
        STEP: "error",
        CLEANUP: "error",
        **dict.fromkeys(BLOCKED, "blocked"),
    }
    for phase in (tests[STEP]["setup"], tests[CLEANUP]["teardown"]):
        assert phase["crash"]["path"].endswith("conftest.py")
        assert "raise " in phase["longrepr"]


def test_allure(folder: Path) -> None:
    """Allure has the step, the cleanup and the blocked tests as broken."""
    results = [json.loads(file.read_text()) for file in (folder / "allure").glob("*-result.json")]
    assert Counter(result["status"] for result in results) == {"passed": 1, "broken": 4}
    details = {result["name"]: result.get("statusDetails", {}) for result in results}
    assert _has_traceback(details, "payment", "ConnectionError")
    assert _has_traceback(details, "shop", "OSError")
    for name in ("test_pay", "test_refund"):
        assert "plan step 'payment' failed: ConnectionError" in details[name]["message"]


def _has_traceback(details: dict[str, Any], step: str, error: str) -> bool:
    found = [detail for name, detail in details.items() if step in name]
    return len(found) == 1 and f"raise {error}(" in found[0]["trace"]
