"""The history: how the last runs of each step went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.project import Project, plan_lines, refuses

STEPS = """
import time

def step(**options):
    return pytest.mark.plan_step(needs=(), **options)

@step()
def database():
    note("database")
    time.sleep(float(os.environ.get("SECONDS", 0)))

@step(retries=2, retry_wait=0)
def broker(ctx):
    note("broker")
    if ctx.attempt < int(os.environ.get("ATTEMPTS", 1)):
        raise OSError("not yet")

@step(per="worker")
def schema():
    note("schema")
"""
TESTS = """
def test_it(database, broker, schema): pass
"""


@pytest.fixture
def history(project: Project) -> Project:
    """A project with three steps that are independent of each other, and a test for them."""
    project.steps(STEPS)
    project.tests(TESTS)
    return project


def file_of(project: Project) -> Path:
    """Return the file with the history."""
    return project.path / ".pytest_plan" / "history"


def write(project: Project, **steps: list[list[object]]) -> None:
    """Write a history: for each step, its last runs."""
    file_of(project).parent.mkdir(exist_ok=True)
    runs = max(map(len, steps.values()), default=0)
    lines = [
        {
            "ended": 1_700_000_000,
            "steps": {name: own[at] for name, own in steps.items() if own[at:]},
        }
        for at in range(runs)
    ]
    file_of(project).write_text("".join(f"\n{json.dumps(line)}" for line in lines))


def runs(*seconds: float, attempts: int = 1) -> list[list[object]]:
    """Return successful runs that took so many seconds."""
    return [[each, attempts, True] for each in seconds]


def read(project: Project) -> dict[str, list[list[object]]]:
    """Return the recorded runs of each step."""
    found: dict[str, list[list[object]]] = {}
    for line in file_of(project).read_text().split("\n"):
        for name, run in json.loads(line)["steps"].items() if line else ():
            found.setdefault(name, []).append(run)
    return found


def test_a_run_is_recorded_once(history: Project) -> None:
    """Also with workers, whose instances of a step are one run of it."""
    history.run_apart("-p", "xdist", "-n", "2").assert_outcomes(passed=1)
    recorded = read(history)
    assert {name: len(found) for name, found in recorded.items()} == {
        "database": 1,
        "broker": 1,
        "schema": 1,
    }
    assert all(attempts == 1 and ok is True for [[_, attempts, ok]] in recorded.values())
    assert file_of(history).stat().st_mode & 0o077 == 0
    assert {*os.listdir(file_of(history).parent)} == {".gitignore", "CACHEDIR.TAG", "history"}


def test_a_slow_step_and_retries_are_shown(
    history: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the line of the step, compared with its earlier runs; usual steps have no remark."""
    write(history, database=runs(0.1, 0.3, 0.2), broker=runs(0.1, attempts=2), schema=runs(0, 0, 0))
    monkeypatch.setenv("SECONDS", "0.8")
    monkeypatch.setenv("ATTEMPTS", "2")
    lines = [" ".join(line.split()) for line in plan_lines(history.run())]
    assert "plan: database ok T median T" in lines
    assert "plan: broker ok T attempt 2 2 of its last 2 runs needed retries" in lines
    assert "plan: schema ok T" in lines


def test_one_slow_run_after_two_is_no_news(
    history: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs do not tell what is usual."""
    write(history, database=runs(0.0, 0.0))
    monkeypatch.setenv("SECONDS", "0.6")
    assert "median" not in history.run().stdout.str()


def test_the_last_50_runs_of_each_step_stay(history: Project) -> None:
    """A step that is not part of this run keeps its own; the file does not grow further."""
    names = [f"step_{number}" for number in range(40)]
    write(history, **{name: runs(*range(120)) for name in names}, database=runs(7, 8))
    assert file_of(history).stat().st_size > 64 * 1024
    for _ in range(2):
        history.run().assert_outcomes(passed=1)
    recorded = read(history)
    assert {len(recorded[name]) for name in names} == {50}
    assert [seconds for seconds, _, _ in recorded["step_0"]] == list(range(70, 120))
    assert [seconds for seconds, _, _ in recorded["database"][:2]] == [7, 8]
    assert len(recorded["database"]) == 4
    assert os.listdir(file_of(history).parent) == ["history"]


def test_runs_that_end_at_the_same_time_are_all_recorded(history: Project) -> None:
    """Each appends a line, even after one that was cut off."""
    write(history, database=runs(1))
    with file_of(history).open("a") as file:
        file.write('\n{"ended": 17')
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_plan"]
    both = [
        subprocess.Popen(command, cwd=history.path, stdout=subprocess.DEVNULL) for _ in range(2)
    ]
    assert [each.wait() for each in both] == [0, 0]
    lines = [" ".join(line.split()) for line in plan_lines(history.run("--plan-history"))]
    assert any(line.startswith("plan: database 3 0 0") for line in lines), lines


def test_a_failed_step_is_recorded_as_failed(
    history: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its attempts; its duration is not part of the median."""
    write(history, broker=runs(0.1))
    monkeypatch.setenv("ATTEMPTS", "9")
    history.run("--plan-continue-on-error")
    _, attempts, has_succeeded = read(history)["broker"][-1]
    assert (attempts, has_succeeded) == (3, False)
    lines = [" ".join(line.split()) for line in plan_lines(history.run("--plan-history"))]
    assert "plan: broker 2 1 1 T T T T ago" in lines


def test_the_command_shows_each_step(history: Project) -> None:
    """It runs nothing and changes nothing."""
    write(history, database=runs(1.0, 3.0, 2.0), broker=runs(5.0, attempts=2))
    before = file_of(history).read_bytes()
    result = history.run("--plan-history")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "plan: step      runs  failed  retried  median  slowest  last   ended",
            "plan: database  3     0       0        2.00s   3.00s    2.00s  * ago",
            "plan: broker    1     0       1        5.00s   5.00s    5.00s  * ago",
        ]
    )
    assert history.calls == []
    assert file_of(history).read_bytes() == before


def test_the_command_without_a_history(history: Project) -> None:
    """It says so, and creates no folder."""
    assert plan_lines(history.run("--plan-history")) == [
        "plan: there is no history yet: no run has provisioned a step"
    ]
    assert not file_of(history).parent.exists()
    refuses(history.run("--plan-history", "--plan-status"), "cannot be used together")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"ended": 1}',
        '{"ended": "never", "steps": {}}',
        '{"ended": 1, "steps": {"database": [NaN, 1, true]}}',
        '{"ended": 1, "steps": {"database": [-1, 1, true]}}',
        '{"ended": 1, "steps": {"database": 5}}',
        '{"ended": 1, "steps": {"database": ["a", "b", "c"]}}',
        "\x00" * 5_000_000,
    ],
    ids=range(11),
)
def test_a_damaged_history_is_ignored(history: Project, content: str) -> None:
    """Without a word, because nothing depends on it."""
    write(history)
    file_of(history).write_text(content)
    result = history.run()
    result.assert_outcomes(passed=1)
    lines = [" ".join(line.split()) for line in plan_lines(history.run("--plan-history"))]
    assert any(line.startswith("plan: database 1 0 0") for line in lines), lines


def test_nothing_is_read_through_a_link_or_from_a_pipe(history: Project) -> None:
    """The folder may come from elsewhere; what the link points to stays as it is."""
    write(history, database=runs(1.0))
    target = file_of(history).rename(history.path / "target")
    before = target.read_bytes()
    file_of(history).symlink_to(target)
    history.run().assert_outcomes(passed=1)
    assert target.read_bytes() == before
    assert len(read(history)["database"]) == 1
    file_of(history).unlink()
    os.mkfifo(file_of(history))
    history.run().assert_outcomes(passed=1)
    assert len(read(history)["database"]) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc cannot be written to")
def test_a_folder_that_cannot_be_used_is_no_problem(history: Project) -> None:
    """The history is never in the way; the journal has its own warning."""
    result = history.run("-o", "plan_dir=/proc/plan", "-W", "ignore")
    result.assert_outcomes(passed=1)
    assert "history" not in result.stdout.str()


def test_no_history_is_recorded_if_that_is_wanted(history: Project) -> None:
    """Nor is one read."""
    write(history, broker=runs(0.1, attempts=2))
    before = file_of(history).read_bytes()
    history.run("-o", "plan_record_history=false").assert_outcomes(passed=1)
    assert file_of(history).read_bytes() == before


def test_the_longest_path_begins_first_if_jobs_are_short(history: Project) -> None:
    """With a single job, the order of declaration stays: no order is faster."""
    write(history, database=runs(1.0), broker=runs(3.0), schema=runs(5.0))
    history.run("--plan-jobs", "1").assert_outcomes(passed=1)
    assert history.calls == ["database", "broker", "schema"]

    both = "import threading; both = threading.Barrier(2, timeout=20)"
    waiting = STEPS.replace('note("broker")', 'note("broker"); both.wait()')
    history.steps(both, waiting.replace('note("schema")', 'note("schema"); both.wait()'))
    write(history, database=runs(1.0), broker=runs(3.0), schema=runs(5.0))
    history.run("--plan-jobs", "2").assert_outcomes(passed=1)
    assert history.calls[-1] == "database"
