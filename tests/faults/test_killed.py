"""Rows 25 to 29, 32, 33 and 60: the owner dies, and another process cleans up."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.harness import crashes
from tests.faults.harness.aftermath import (
    NO_REAPER,
    clean_up,
    environments,
    judge,
    nothing_more,
    over,
    reaper_of,
)
from tests.faults.harness.scenario import MOMENTS, SLACK, Run, Stage, Story

CRASHES = ("-p", "tests.faults.harness.crashes")
BEFORE_REAPER = 1  # durable writes that a run makes before its reaper starts
COMMITS = 16  # more durable writes than a run makes
modes = pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["solo", "two workers"])


def dies(run: Run, *args: str, moment: str, fault: str | None = None) -> Story:
    """Kill the owner at a moment, by SIGKILL or a fault, and check what the reaper does."""
    run.start(*args, faults={moment: fault or "hold"})
    yield run.reached(moment)
    died = time.monotonic()
    if fault is None:
        run.signal(signal.SIGKILL)
        run.release()
    yield over(run)
    times = [line.time for line in run.history if line.what == "cleanup" and line.time > died]
    took = min(times, default=died) - died
    run.expect(took < 5 * SLACK, f"cleanup began after {took:.1f} s")
    # An interrupted cleanup is repeated by the next owner.
    judge(run, most=2 if moment.endswith(".cleanup") else 1)
    nothing_more(run)


@modes
def test_g7_a_killed_owner_is_cleaned_up_after(stage: Stage, args: tuple[str, ...]) -> None:
    """Row 25: after SIGKILL at any moment the reaper cleans up; a second recovery does nothing."""
    for moment in MOMENTS:
        stage.add(moment, dies, *args, moment=moment)
    stage.play(2)


@pytest.mark.parametrize("fault", ["die", "segfault"])
def test_g7_an_owner_that_exits_abruptly_is_cleaned_up_after(stage: Stage, fault: str) -> None:
    """Rows 32, 33: `os._exit` and a segmentation fault are cleaned up after like any death."""
    for moment in ("net.exec", "web.post_exec", "test.call"):
        stage.add(moment, dies, moment=moment, fault=fault)
    stage.play(2)


@modes
@pytest.mark.parametrize("when", ["before", "after"])
def test_g1_a_kill_at_any_durable_write_loses_nothing(
    stage: Stage, when: str, args: tuple[str, ...]
) -> None:
    """Row 25: a kill before a commit, or right after it, leaves nothing that is not cleaned up."""
    reached: list[int] = []

    def story(run: Run, number: int) -> Story:
        run.start(*CRASHES, *args, env={crashes.AT: f"{when}:{number}"})
        yield over(run)
        if run.notes("killed"):
            reached.append(number)
            run._tally.kills += 1
            run._tally.faults += 1
        if environments(run):
            run.expect(number <= BEFORE_REAPER, "the reaper has left it")
            run.expect(clean_up(run) == 0, "something is left")
        judge(run, most=2)
        nothing_more(run)

    numbers = range(1, COMMITS) if not args else range(1, COMMITS, 4)
    for number in numbers:
        stage.add(f"{when} {number}", story, number=number)
    stage.play(2)
    # One commit for the environment, one for the scratch folder, three for each step.
    assert len(reached) >= (11 if not args else 3)


def test_g7_the_reaper_survives_the_death_of_the_group(stage: Stage) -> None:
    """Row 26: the reaper cleans up after the whole process group of the run was killed."""

    def story(run: Run, args: tuple[str, ...]) -> Story:
        run.start(*args, faults={"web.exec": "hold"})
        yield run.reached("web.exec")
        run.signal(signal.SIGKILL, group=True)
        yield over(run)
        judge(run)

    for args in ((), ("-n", "2")):
        stage.add(f"{args}", story, args)
    stage.play()


def test_g8_when_both_die_the_next_run_cleans_up(stage: Stage) -> None:
    """Row 28: the next run cleans up, once, before its own steps."""

    def story(run: Run) -> Story:
        run.start(faults={"test.call": "hold"})
        yield run.reached("test.call")
        run.kill(reaper_of(run), signal.SIGKILL)
        run.signal(signal.SIGKILL)
        yield run.ended
        run.expect(len(environments(run)) == 1, "somebody has cleaned up already")
        run.start("-p", "no:warnings")
        yield run.ended
        run.expect(run.status == 0, f"exit status {run.status}")
        run.expect("cleaning up environment" in run.output(), "it was not said")
        run.expect(run.notes("cleanup") == ["web", "db", "net"] * 2, f"{run.notes('cleanup')}")
        judge(run, most=2)

    stage.add("both", story)
    stage.play()


def test_g8_a_reaper_that_was_killed_is_started_again(stage: Stage) -> None:
    """Row 28: the death is noticed after the step, and the new reaper cleans up after the owner."""

    def story(run: Run) -> Story:
        run.start("-W", "default", faults={"net.exec": "hold", "test.call": "kill"})
        yield run.reached("net.exec")
        run.kill(reaper_of(run), signal.SIGKILL)
        run.release()
        yield over(run)
        judge(run)

    stage.add("reaper", story)
    stage.play()


@pytest.mark.parametrize("when", ["before", "after"])
def test_g3_a_cleanup_that_is_killed_is_finished_by_the_next_owner(stage: Stage, when: str) -> None:
    """Row 29: a cleanup that is killed at any of its writes is finished by the next process."""
    died: list[int] = []

    def story(run: Run, number: int) -> Story:
        run.start(*NO_REAPER, faults={"test.call": "kill"})
        yield run.ended
        env = {crashes.AT: f"{when}:{number}", crashes.IN: "cleanup"}
        status = clean_up(run, *CRASHES, env=env)
        died.append(status == -signal.SIGKILL)
        run._tally.kills += status == -signal.SIGKILL
        run.expect(clean_up(run) == 0, "something is left")
        judge(run, most=2)
        nothing_more(run)

    for number in range(1, 9):
        stage.add(f"{when} {number}", story, number=number)
    stage.play(2)
    assert sum(died) >= 4


def test_g12_the_reaper_finishes_the_cleanup_of_a_killed_controller(stage: Stage) -> None:
    """Row 60: a controller killed in the middle of a slow cleanup leaves the rest to the reaper."""

    def story(run: Run) -> Story:
        run.start("-n", "2", faults={"db.cleanup": "hold"})
        yield run.reached("db.cleanup")
        run.signal(signal.SIGKILL)
        yield lambda: run.notes("at").count("db.cleanup") == 2
        run.release()
        yield over(run)
        run.expect(run.notes("cleanup") == ["web", "db", "db", "net"], f"{run.notes('cleanup')}")
        judge(run, most=2)

    stage.add("controller", story)
    stage.play()
