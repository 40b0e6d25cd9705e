"""Every report shows that a step was lost while tests ran."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET

import jsonschema
import pytest

from tests.plugin.project import Project
from tests.plugin.test_watching import _DIE, _HELPERS, _SERVICE
from tests.report.formats.test_json_file import SCHEMA

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the helpers use pidfd_open")

SAID = "'sh' exited with status 3; FATAL: out of memory"


@pytest.fixture
def lossy(project: Project) -> Project:
    """A project whose step `service` is lost in the first of its tests."""
    project.write("helpers.py", _HELPERS)
    project.steps(_SERVICE)
    project.tests(_DIE, """
        def test_dies(plan, service): die(plan)
        def test_after(service): pass
        """)  # fmt: skip
    return project


def test_every_report_shows_the_loss(lossy: Project) -> None:
    """JSON has program and status; trace, HTML and Markdown say what has happened."""
    names = ("r.json", "r.trace.json", "r.html", "r.md")
    lossy.run(*(f"--plan-report={name}" for name in names))
    texts = {name: (lossy.path / name).read_text() for name in names}
    data = json.loads(texts["r.json"])
    jsonschema.validate(data, SCHEMA)
    assert (data["outcome"], data["plan"]["outcome"]) == ("failed", "failed")
    (step,) = data["steps"]
    lost = step["lost"]
    assert (step["outcome"], lost["program"], lost["status"]) == ("succeeded", "sh", 3)
    (event,) = [e for e in json.loads(texts["r.trace.json"])["traceEvents"] if e["ph"] == "i"]
    assert event["args"] == {"program": "sh", "status": 3, "detail": SAID}
    assert event["ts"] == pytest.approx(1e6 * lost["at"], abs=1)
    assert '<b class="failed">lost</b>' in texts["r.html"]
    assert "| service | succeeded, lost |" in texts["r.md"]
    for name in ("r.html", "r.md"):
        assert "FATAL: out of memory" in texts[name]


def test_the_loss_is_a_test_case_of_the_junit_file(lossy: Project) -> None:
    """The step is an error, its property says when it was lost, and blocked tests say why."""
    lossy.run("--junitxml=junit.xml")
    root = ET.parse(lossy.path / "junit.xml").getroot()
    cases = {case.get("name"): case for case in root.iter("testcase")}
    (error,) = cases["service"].findall("error")
    assert f"lost while tests ran: {SAID}" in error.get("message", "")
    (blocked,) = cases["test_after"].findall("error")
    assert SAID in blocked.get("message", "")
    values = {one.get("name"): one.get("value") for one in root.iter("property")}
    assert f"({SAID})" in str(values["plan.step.service"])
    assert values["plan.outcome"] == "failed"


def test_a_run_without_a_loss_says_null(lossy: Project) -> None:
    """The key is always there."""
    lossy.tests("def test_it(service): pass")
    lossy.run("--plan-report=r.json")
    (step,) = json.loads((lossy.path / "r.json").read_text())["steps"]
    assert step["lost"] is None


def test_listeners_get_the_loss(lossy: Project) -> None:
    """The event has the result of the step, on the main thread."""
    lossy.write("plugin.py", """
        import threading
        from calls import note

        def pytest_plan_make_listener(config):
            def listen(event):
                if type(event).__name__ == "StepLost":
                    lost = event.result.lost
                    is_main = threading.current_thread() is threading.main_thread()
                    note(event.result.name, lost.program, lost.status, event.at == lost.at, is_main)
            return listen
        """)  # fmt: skip
    lossy.run("-p", "plugin")
    assert lossy.calls == ["service sh 3 True True"]
