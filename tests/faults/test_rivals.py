"""Rows 46, 47: two processes want the same environment at the same moment."""

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
    """Return what `rivals` has said, a line for each repeat."""
    return run.output().splitlines()


def repeated(run: Run, story: str, faults: dict[str, str]) -> Story:
    """Let the rivals meet; wait until they have, as long as they go on."""
    argv = ("-m", "tests.faults.harness.rivals", story, str(REPEATS))
    run.start(faults=faults, argv=argv)
    for number in range(REPEATS):
        yield lambda: len(lines(run)) > number or run.ended()  # noqa: B023 - asked at once
    yield run.ended
    run.expect(run.status == 0, f"exit status {run.status}")
    run._tally.runs += REPEATS
    run._tally.faults += REPEATS


def test_g3_three_who_clean_up_at_once_do_it_once(stage: Stage) -> None:
    """Row 47: the lock decides; the others say so or find nothing."""

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


def test_g10_of_two_runs_that_begin_at_once_one_has_the_environment(stage: Stage) -> None:
    """Row 46: the other ends at once, and is told by whom it is used, where and for how long."""

    def story(run: Run) -> Story:
        yield from repeated(run, "runs", {"db.exec": "hold"})
        run.expect(lines(run) == ["4 0 named"] * REPEATS, f"{Counter(lines(run))}")
        cleaned = run.notes("cleanup")
        run.expect(cleaned == ["web", "db", "net"] * REPEATS, f"{len(cleaned)} cleanups")
        judge(run, most=REPEATS)

    stage.add("runs", story)
    stage.play()


def test_g10_two_runs_on_one_named_environment_do_not_meet(stage: Stage) -> None:
    """Row 46: the second ends at once, with who has it; runs without a name go on."""

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
