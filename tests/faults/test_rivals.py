"""Rows 46 and 47: several processes want the same environment at the same moment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter

from tests.faults.harness.aftermath import NO_REAPER, judge
from tests.faults.harness.scenario import PATIENCE, SLACK, Run, Stage, Story

REPEATS = 50


def lines(run: Run) -> list[str]:
    """Return the output of `rivals`: one line for each repetition."""
    return run.output().splitlines()


def repeated(run: Run, story: str, faults: dict[str, str]) -> Story:
    """Run a story of `rivals`, and keep waiting as long as it makes progress."""
    argv = ("-m", "tests.faults.harness.rivals", story, str(REPEATS))
    run.start(faults=faults, argv=argv)
    for number in range(REPEATS):
        yield lambda: len(lines(run)) > number or run.ended()  # noqa: B023 - called at once
    yield run.ended
    run.expect(run.status == 0, f"exit status {run.status}")
    run._tally.runs += REPEATS
    run._tally.faults += REPEATS


def test_g3_three_cleanups_at_once_clean_up_once(stage: Stage) -> None:
    """Row 47: only the process that gets the lock cleans up; the others succeed without it."""

    def story(run: Run) -> Story:
        run.start(*NO_REAPER, faults={"test.call": "kill"})
        yield run.ended
        yield from repeated(run, "recoveries", {})
        run.expect(lines(run) == ["0 0 0 gone"] * REPEATS, f"{Counter(lines(run))}")
        cleaned = run.notes("cleanup")
        run.expect(cleaned == ["web", "db", "net"] * REPEATS, f"{len(cleaned)} cleanups")
        run.expect(not run.processes(), f"left: {run.processes()}")

    stage.add("recoveries", story)
    stage.play()


def test_g10_of_two_runs_that_begin_at_once_one_gets_the_environment(stage: Stage) -> None:
    """Row 46: the other run fails at once and says who uses the environment, where and how long."""

    def story(run: Run) -> Story:
        yield from repeated(run, "runs", {"db.exec": "hold"})
        run.expect(lines(run) == ["4 0 named"] * REPEATS, f"{Counter(lines(run))}")
        cleaned = run.notes("cleanup")
        run.expect(cleaned == ["web", "db", "net"] * REPEATS, f"{len(cleaned)} cleanups")
        judge(run, most=REPEATS)

    stage.add("runs", story)
    stage.play()


def test_g10_a_named_environment_has_one_run_at_a_time(stage: Stage) -> None:
    """Row 46: the second run fails at once and names the process that uses the environment."""

    def story(run: Run) -> Story:
        run.start("--plan-environment=staging", faults={"db.exec": "hold"})
        yield run.reached("db.exec")
        argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-p", "no:xdist"]
        begun = time.monotonic()
        second = subprocess.run(
            [*argv, "--plan-environment=staging"], cwd=run.project, capture_output=True, text=True,
            env={**run._variables(), "FAULTS_OPTIONS": "{}"}, timeout=PATIENCE, check=False,
        )  # fmt: skip
        text = second.stdout + second.stderr
        run.expect(second.returncode == 4, f"exit status {second.returncode}")
        run.expect(f"in use by process {run.pid} on {os.uname().nodename}" in text, text[-2000:])
        run.expect(time.monotonic() - begun < 10 * SLACK, "it waited")
        run.release()
        yield run.ended
        run.expect(run.status == 0, f"exit status {run.status}")
        judge(run)

    stage.add("named", story)
    stage.play()
