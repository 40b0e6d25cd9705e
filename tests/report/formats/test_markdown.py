"""The Markdown report: a table, a Gantt chart, and the failures."""

from __future__ import annotations

import re

import pytest

from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.report.formats import markdown
from tests.report.support.accounts import account, blocked, cleanup, failed, ran, shared, step


def test_report() -> None:
    """The report has the outcome, counts, a row per step, a Gantt chart, and failures with logs."""
    lines = markdown.text(
        account(
            step("net", is_critical=True, cleanup=cleanup(CleanupOutcome.ABANDONED)),
            failed("db", attempts_allowed=3, log="connecting"),
            blocked("web"),
            tests=(ran("a"), ran("b", "blocked")),
            outcome=StepOutcome.FAILED,
            reason="step 'db' failed",
            critical_path=("net", "db"),
            problems=("/tmp/x could not be removed",),
        )
    ).splitlines()
    assert lines[0] == "## Run failed"
    assert lines[2] == (
        "Environment `run-1f0c9a3e`. Duration: 10.0s. Tests: 2 passed. Plan: 2 steps succeeded. "
        "Cleanup: succeeded. Stopped early: step 'db' failed. Critical path: net > db."
    )
    assert lines[4:9] == [
        "| step | outcome | duration | attempts | cleanup | reason |",
        "| --- | --- | --- | --- | --- | --- |",
        "| **net** | succeeded | 1.00s |  | abandoned 1.00s |  |",
        "| db | failed | 1.00s | 1 of 3 |  | RuntimeError: no |",
        "| web | blocked |  |  |  | needs 'db': failed |",
    ]
    assert "- /tmp/x could not be removed" in lines
    assert lines.count("```mermaid") == 1
    assert lines[-11:] == [
        "", "### db", "", "```text", "E   no", "```", "Log:", "", "```text", "connecting", "```"
    ]  # fmt: skip


def test_a_shared_environment_has_a_line() -> None:
    """It has the role of the run, the owner and the members."""
    lines = markdown.text(account(step("net"), share=shared("heir", lost="no *answer*")))
    assert lines.splitlines()[4:7] == [
        "Shared environment: this run is the heir, which has cleaned up after a lost owner and "
        "then provisioned the steps. Owner: vm\\-1 \\(tests 1/3\\). Members that this run has "
        "seen: vm\\-2 \\(tests 2/3\\), vm\\-3 \\(\\<tests\\> 3/3\\). Lost: no "
        "\\*answer\\*.",
        "",
        "| step | outcome | duration | attempts | cleanup | reason |",
    ]
    assert "Shared" not in markdown.text(account(step("net")))


def test_markup_in_texts_is_escaped() -> None:
    """Pipes, tags, links and fences in errors and logs are shown as plain text."""
    evil = "a | b <script>alert(1)</script> [x](http://y) `c` *d* _e_ @someone #1"
    text = markdown.text(account(failed("db", reason=evil, error="```\n<b>", log="````x")))
    row = next(line for line in text.splitlines() if line.startswith("| db"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert "\\<script\\>" in row
    assert "\\[x\\]\\(http" in row
    assert not re.search(r"(?<!\\)[`*_@#]", row)
    lines = text.splitlines()
    opened = lines.index("````text")
    assert lines[opened + 1 : opened + 4] == ["```", "<b>", "````"]
    assert "`````text" in lines


def test_no_step() -> None:
    """The report of a run that needed no steps says so, and has no chart."""
    text = markdown.text(account(tests=(ran("a"),)))
    assert "No steps were needed." in text
    assert "mermaid" not in text


def test_many_steps_are_cut_with_failures_first() -> None:
    """The table is cut, because GitHub limits a summary's size; failed steps come first."""
    steps = [step(f"s{number}") for number in range(2_000)]
    lines = markdown.text(account(*steps, failed("db"))).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[2].startswith("| db ")
    assert len(rows) == 302
    assert "Steps not shown: 1701." in lines
    many = markdown.text(account(*(failed(f"f{number}") for number in range(100))))
    assert many.count("\n### ") == 20
    assert "Failed steps not shown: 80." in many


def test_the_report_has_a_bound(subtests: pytest.Subtests) -> None:
    """Whatever a run has too much of, the report fits, and says how much it left out."""
    long = "\u2192 " * 300_000
    runs = {
        "steps": account(*(failed(f"s{n}", reason=long) for n in range(1000))),
        "errors": account(
            *(failed(f"s{n}", error=f"{long}\nE   last", log=long) for n in range(40))
        ),
        "names": account(*(step(f"{'n' * 2000}{n}") for n in range(1000))),
        "problems": account(step("db"), problems=(long,) * 1000),
        "path": account(step("db"), critical_path=("db",) * 100_000, reason=long),
    }
    notes = {
        "steps": "Steps not shown: 700.",
        "errors": "Failed steps not shown: 20.",
        "names": "Steps not shown: ",
        "problems": "Problems not shown: 900.",
        "path": "| db | succeeded |",
    }
    for name, run in runs.items():
        with subtests.test(name):
            text = markdown.text(run)
            assert len(text.encode()) <= markdown.MOST_BYTES
            assert notes[name] in text


def test_a_long_error_ends_with_its_last_line() -> None:
    """Of a long error the last lines are shown, and the report says that some are missing."""
    text = markdown.text(account(failed("db", error="first\n" + "more\n" * 10_000 + "E   last")))
    assert "(earlier text omitted)\nmore\n" in text
    assert "more\nE   last\n```" in text
    assert "first" not in text


def test_failed_steps_come_first_where_there_is_little_room() -> None:
    """If the rows do not fit, those of steps that did not fail are left out."""
    steps = [*(step(f"s{n}") for n in range(250)), failed("db")]
    text = markdown.text(account(*steps), 10_000)
    assert len(text.encode()) <= 10_000
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[2].startswith("| db | failed |")
    assert f"Steps not shown: {251 - len(rows[2:])}." in text


def test_many_instances_of_a_step_share_a_row() -> None:
    """The row names those that ended in another way, and has the shortest and longest duration."""
    of_workers = [
        step(f"db@gw{number}", template="db", seconds=1.0 + number, cleanup=cleanup())
        for number in range(7)
    ]
    lines = markdown.text(
        account(
            *of_workers, failed("db@gw7", template="db"),
            *(step(f"pg[{one}]", template="pg") for one in (15, 16)),
        )
    ).splitlines()  # fmt: skip
    assert lines[6:9] == [
        "| db \u00d78 | 7 succeeded, gw7 failed | 1.00\u20137.00s |  | succeeded 1.00s "
        "| RuntimeError: no |",
        "| pg\\[15\\] | succeeded | 1.00s |  |  |  |",
        "| pg\\[16\\] | succeeded | 1.00s |  |  |  |",
    ]
