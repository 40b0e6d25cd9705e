"""The dependency graph and the Gantt chart of a run, as Mermaid."""

from __future__ import annotations

from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.report.formats import mermaid
from tests.plugin.project import Project
from tests.report.support.accounts import account, blocked, cleanup, failed, ran, step


def test_graph() -> None:
    """Steps are nodes colored by outcome, needs are arrows, order edges are dotted arrows."""
    text = mermaid.text(
        account(step("net"), failed("db", needs=("net",)), blocked("web", after=("db",)))
    )
    lines = [line.strip() for line in text.splitlines()]
    assert lines[:9] == [
        "flowchart TD",
        's0["net"]',
        's1["db"]',
        's2["web"]',
        "s0 --> s1",
        "s1 -.-> s2",
        "class s0 good",
        "class s1 bad",
        "class s2 odd",
    ]


def test_graph_of_a_plan_that_does_not_run(project: Project) -> None:
    """--plan-show writes the graph of all declared steps, needed or not, without colors."""
    project.steps("""
    @pytest.mark.plan_step
    def net(): note("net")
    @pytest.mark.plan_step
    def db(): note("db")
    @pytest.mark.plan_step
    def web(db): note("web")
    """)
    project.tests("def test_it(net): note('test')")
    result = project.run("--plan-show", "--plan-report=plan.mmd", "--plan-report=plan.json")
    assert result.ret == 0
    assert [line.strip() for line in (project.path / "plan.mmd").read_text().splitlines()] == [
        "flowchart TD",
        's0["net"]',
        's1["db"]',
        's2["web"]',
        "s0 -.-> s1",
        "s1 --> s2",
    ]
    result.stdout.fnmatch_lines(
        [
            "nothing was run",
            "plan report: *plan.mmd",
            "*plan.json was not written: without a run, only .mmd reports are written",
        ]
    )
    assert project.calls == []


def test_gantt() -> None:
    """Steps, workers and cleanups are bars in milliseconds; failures are critical."""
    text = mermaid.gantt(
        account(
            step("net", cleanup=cleanup(CleanupOutcome.FAILED)),
            failed("db", started=1.0, seconds=0.25),
            blocked("web"),
            tests=(ran("a", worker="gw0"), ran("b", worker="gw0", started=3.0)),
        )
    )
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "gantt"
    assert lines[4:] == [
        "section provision",
        "net :done, 0, 1000",
        "db :crit, 1000, 1250",
        "section tests",
        "gw0, 2 tests :active, 2000, 3500",
        "section cleanup",
        "net :crit, 8000, 9000",
    ]


def test_gantt_shows_the_longest_of_many() -> None:
    """If there are too many bars, the shortest are left out."""
    steps = [step(f"s{number}", seconds=number + 1.0) for number in range(100)]
    lines = mermaid.gantt(account(*steps)).splitlines()
    bars = [line for line in lines if ":done" in line]
    assert len(bars) == 60
    assert "s40 " in bars[0]
