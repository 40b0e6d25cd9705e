"""Steps and cleanups as OpenTelemetry spans."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="spans need the OpenTelemetry SDK")

from tests.plugin.project import Project
from tests.xdist.cluster import Cluster

# Configures a tracer provider, as an application or a plugin does, and writes its spans to a file.
PROVIDER = """
import json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

def pytest_configure(config):
    if hasattr(config, "workerinput"): return
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    def write():
        spans = [json.loads(span.to_json()) for span in exporter.get_finished_spans()]
        with open("spans.json", "w") as file: json.dump(spans, file)
    config.add_cleanup(write)

class Session:
    '''Imitates pytest-opentelemetry, whose session span is never the current span.'''

    def pytest_sessionstart(self):
        self.session_span = trace.get_tracer("session").start_span("test run")

    def pytest_sessionfinish(self):
        self.session_span.end()
"""
WITH_SESSION = (
    PROVIDER
    + """
@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    if hasattr(session.config, "workerinput"): return
    plugin = Session()
    plugin.pytest_sessionstart()
    session.config.pluginmanager.register(plugin, "session_spans")
"""
)
STEPS = """
import sys
SHOW = [sys.executable, "-c", "import os; print(os.environ.get('TRACEPARENT'))"]

@pytest.mark.plan_step(needs=())
def net(ctx):
    note(ctx.run(SHOW).stdout.strip())
    yield
    note(ctx.run(SHOW).stdout.strip())
    raise OSError("in use")

@pytest.mark.plan_step(retries=1, retry_wait=0)
def db(net, ctx):
    if ctx.attempt == 1: raise RuntimeError("no port")

@pytest.mark.plan_step
def broken(db): raise ValueError("no")

@pytest.mark.plan_step
def child(broken): pass
"""
TESTS = "def test_db(db): pass\ndef test_child(child): pass"


def spans(project: Project) -> dict[str, dict[str, Any]]:
    """Return the spans of a run by name."""
    found = json.loads((project.path / "spans.json").read_text())
    assert len({span["name"] for span in found}) == len(found)
    return {span["name"]: span for span in found}


def check(project: Project, parent: str) -> None:
    """Check the spans of STEPS, which are all children of `parent`."""
    found = spans(project)
    assert set(found) == {
        parent, "plan step net", "plan step db", "plan step broken", "plan cleanup net"
    }  # fmt: skip
    above = found[parent]["context"]
    for name, span in found.items():
        if name != parent:
            assert span["parent_id"] == above["span_id"]
            assert span["context"]["trace_id"] == above["trace_id"]
            assert span["start_time"] <= span["end_time"]
    assert found["plan step net"]["status"]["status_code"] == "UNSET"
    assert found["plan cleanup net"]["status"]["description"] == "OSError: in use"
    db, broken = found["plan step db"], found["plan step broken"]
    assert [event["attributes"] for event in db["events"]] == [
        {"plan.attempt": 1, "exception.message": "RuntimeError: no port"}
    ]
    assert db["attributes"]["plan.needs"] == ["net"]
    assert db["attributes"]["plan.attempts"] == 2
    assert broken["status"] == {"status_code": "ERROR", "description": "ValueError: no"}
    net = found["plan step net"]["context"]
    expected = f"00-{net['trace_id'][2:]}-{net['span_id'][2:]}"
    assert [call.rpartition("-")[0] for call in project.calls] == [expected, expected]


def test_steps_are_children_of_the_session(project: Project) -> None:
    """Spans are children of the session span, and programs get the span of their step."""
    project.steps(STEPS, WITH_SESSION)
    project.tests(TESTS)
    project.run_apart()
    check(project, "test run")


def test_steps_are_children_of_the_session_with_workers(cluster: Cluster) -> None:
    """With workers, the controller records the spans once."""
    cluster.steps(STEPS, WITH_SESSION)
    cluster.tests(TESTS)
    cluster.two()
    check(cluster, "test run")


def test_steps_are_children_of_the_plan_without_a_session(project: Project) -> None:
    """Without a session span, the span `plan` is the parent and continues TRACEPARENT."""
    project.steps(STEPS, PROVIDER)
    project.tests(TESTS)
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACEPARENT", f"00-{trace}-{parent}-01")
        project.run_apart()
    check(project, "plan")
    plan = spans(project)["plan"]
    assert (plan["context"]["trace_id"], plan["parent_id"]) == (f"0x{trace}", f"0x{parent}")
    assert plan["attributes"]["plan.verdict"] == "failed"
    assert "step 'broken' failed (conftest.py:" in plan["status"]["description"]


def test_nothing_happens_without_a_provider(project: Project) -> None:
    """Without a provider, OpenTelemetry is not imported, and programs get no TRACEPARENT."""
    project.steps(STEPS)
    project.tests("""
    import sys
    def test_it(net): assert "opentelemetry" not in sys.modules
    """)
    project.run_apart().assert_outcomes(passed=1, errors=1)
    assert project.calls == ["None", "None"]


@pytest.mark.parametrize("option", ["env={'TRACEPARENT': None}", "clean_env=True"])
def test_a_program_can_be_started_without_it(project: Project, option: str) -> None:
    """`env` can remove the variable, and a clean environment does not contain it."""
    project.steps(STEPS.replace("ctx.run(SHOW)", f"ctx.run(SHOW, {option})"), PROVIDER)
    project.tests("def test_it(net): pass")
    project.run_apart()
    assert project.calls == ["None", "None"]


def test_secrets_are_masked(project: Project) -> None:
    """Secrets are masked in the errors of attempts, steps and cleanups."""
    project.steps(PROVIDER, """
    @pytest.mark.plan_step(needs=())
    def token():
        yield Secret("hunter2-hunter2")
        raise OSError("cleanup hunter2-hunter2")

    @pytest.mark.plan_step(needs=["token"], retries=1, retry_wait=0)
    def db(): raise RuntimeError("error hunter2-hunter2")
    """)  # fmt: skip
    project.tests("def test_db(db): pass")
    project.run_apart()
    text = (project.path / "spans.json").read_text()
    assert text.count("***") >= 3
    assert "hunter2" not in text


@pytest.mark.parametrize("workers", ["0", "2"])
def test_with_pytest_opentelemetry(cluster: Cluster, workers: str) -> None:
    """With the real plugin, its session span is the parent of all spans."""
    pytest.importorskip("pytest_opentelemetry")
    cluster.steps(STEPS, PROVIDER)
    cluster.tests(TESTS)
    cluster.apart("-n", workers, "-p", "pytest_opentelemetry.plugin", "-W", "ignore")
    found = spans(cluster)
    session = found["test run"]["context"]
    for name in ("plan step net", "plan step db", "plan step broken", "plan cleanup net"):
        assert found[name]["parent_id"] == session["span_id"]
