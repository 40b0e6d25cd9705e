"""Rows 4 to 6, 17 to 19, 52, 78, 84, 85: steps and cleanups that fail or do not stop."""

from __future__ import annotations

import itertools
import math
import sys
import time

import pytest

from tests.engine.execution import test_stop_at_every_line as every_line
from tests.faults.harness.project import CONFTEST
from tests.faults.harness.scenario import (
    BACKWARD,
    HOOKS,
    SLACK,
    STEPS,
    WAITING,
    Run,
    Stage,
    Story,
    Tally,
)

TIMEOUT = 1.0 * SLACK  # seconds
# Seconds from a step's timeout to its end, by the stage of the escalation that ends it.
AT_ONCE, KILLED, LEFT = 0.9 * SLACK, 2.9 * SLACK, 4.5 * SLACK


STEP_FAULTS = {
    "hold": (AT_ONCE, False),  # stopped when its ctx wakes up
    "tree": (KILLED, False),  # stopped when its process trees are killed
    "spin": (KILLED, False),  # stopped by an exception in its thread
    "sleep": (LEFT, True),  # abandoned
    "receive": (LEFT, True),
    "acquire": (LEFT, True),
    "c_call": (LEFT, True),
    "stubborn": (LEFT, True),
}


def test_g18_a_step_that_exceeds_its_timeout_is_stopped(stage: Stage) -> None:
    """Row 17: the first measure that works stops the step, and the exit waits for no thread."""

    def story(run: Run, hook: str, fault: str, longest: float, is_left: bool) -> Story:
        run.start(faults={f"db.{hook}": fault}, options={"db": {"timeout": TIMEOUT}})
        yield run.ended
        run.judge(1, stuck=["db"] if is_left else [])
        took = run.time_of("cleanup") - run.time_of("begin", "db") - TIMEOUT
        # The timeout counts from before the beginning is recorded, which waits for the disk.
        run.expect(-0.5 < took < longest, f"it stopped {took:.1f} s after its timeout")
        text = run.output()
        run.expect("TIMED OUT" in text and "exceeded its timeout" in text, "it is not named")
        run.expect(("stack of its abandoned thread:" in text) is is_left, "left behind or not?")
        run.expect(not is_left or f"_{fault}" in text, "its stack is missing")
        exit = run.time_of("leaving") - run.time_of("undo", "net")
        run.expect(exit < 2.0 * SLACK, f"the exit took {exit:.1f} s")

    for hook in HOOKS:
        for fault, (longest, is_left) in STEP_FAULTS.items():
            stage.add(f"{hook} {fault}", story, hook, fault, longest, is_left)
    stage.play(WAITING)


@pytest.mark.parametrize("fault", ["error", "interrupt", "system_exit", "exit"])
def test_g6_a_cleanup_that_raises_stops_no_other_and_turns_the_run_red(
    stage: Stage, fault: str
) -> None:
    """Rows 4 and 6: all other cleanups run, each failure is reported, and the exit status is 1."""

    def story(run: Run, moments: list[str]) -> Story:
        run.start(faults=dict.fromkeys(moments, fault))
        yield run.ended
        run.judge(1)
        for moment in moments:
            step = moment.partition(".")[0]
            lines = [line for line in run.output().splitlines() if line.startswith(f"plan: {step}")]
            run.expect(any("cleanup FAILED" in line for line in lines), f"{step} is not reported")
        run.expect("5 passed" in run.output(), "tests did not pass")

    pairs = list(map(list, itertools.pairwise(BACKWARD)))
    cases = [[moment] for moment in BACKWARD] + (pairs if fault == "error" else [])
    cases.append(BACKWARD)
    for moments in cases:
        stage.add(" ".join(moments), story, moments=moments)
    stage.play()


def test_g6_the_first_failure_stays_the_first(stage: Stage) -> None:
    """Row 5: all three failures are reported, and blocked tests name the first."""

    def story(run: Run) -> Story:
        moments = ("web.exec", "web.cleanup", "net.cleanup")
        run.start(faults=dict.fromkeys(moments, "error"))
        yield run.ended
        run.judge(1)
        text = run.output()
        for moment in moments:
            run.expect(f"ValueError: {moment}" in text, f"{moment} is not reported")
        run.expect(
            "5 tests blocked: plan step 'web' failed: ValueError: web.exec" in text, "blocked"
        )

    stage.add("three", story)
    stage.play()


def test_g5_a_cleanup_that_hangs_is_ended_by_its_timeout(stage: Stage) -> None:
    """Row 18: what was not undone is listed, the other cleanups run, and the exit status is 1."""

    def story(run: Run, moment: str, fault: str, is_left: bool) -> Story:
        step = moment.partition(".")[0]
        run.start(faults={moment: fault}, options={step: {"cleanup_timeout": TIMEOUT}})
        yield run.ended
        # The deferred calls run even if the hook has used up the time of the step.
        run.judge(1, left=[step] if is_left else [], stuck=[step] if is_left else [])
        run.expect(not run.processes(), "processes are left")
        lines = [line for line in run.output().splitlines() if line.startswith(f"plan: {step}")]
        abandoned = [line for line in lines if "cleanup ABANDONED" in line]
        named = any("not undone: its cleanup hook" in line for line in abandoned)
        run.expect(named is is_left, "is its cleanup hook left or not?")
        run.expect("5 passed" in run.output(), "tests did not pass")
        cleaned = {line.words[0] for line in run.history if line.what == "cleaned"}
        run.expect(cleaned >= set(STEPS) - {step}, f"only {cleaned} were cleaned up")
        took = run.time_of("leaving") - run.time_of("cleanup", step)
        run.expect(took < TIMEOUT + LEFT + 2.0 * SLACK, f"it took {took:.1f} s")

    hangs = {"spin": False, "hold": False, "sleep": True, "c_call": True, "stubborn": True}
    for fault, is_left in hangs.items():
        for moment in BACKWARD if fault in ("sleep", "spin") else BACKWARD[1:2]:
            stage.add(f"{moment} {fault}", story, moment, fault, is_left)
    stage.play(WAITING)


def test_g5_the_cleanup_limit_bounds_all_cleanups_together(stage: Stage) -> None:
    """Row 19: cleanups that have no time left are listed, and their processes are ended anyway."""

    def story(run: Run) -> Story:
        faults = dict.fromkeys(BACKWARD, "spin")
        run.start(f"--plan-cleanup-limit={TIMEOUT}s", faults=faults)
        yield run.ended
        run.judge(1, left=STEPS)
        run.expect(not run.processes(), "processes are left")
        for step in STEPS:
            lines = [line for line in run.output().splitlines() if line.startswith(f"plan: {step}")]
            run.expect(any("not undone" in line for line in lines), f"{step} is not named")
        end = run.time_of("leaving")
        took = end - run.time_of("cleanup") if end < math.inf else math.inf
        run.expect(took < TIMEOUT + LEFT + 2.0 * SLACK, f"it took {took:.1f} s")

    stage.add("all", story)
    stage.play()


@pytest.mark.parametrize("fault", ["tree"])
def test_g18_the_limit_escalates_in_the_same_way(stage: Stage, fault: str) -> None:
    """Row 52: a program that ignores SIGTERM is ended, and its child in another session as well."""

    def story(run: Run, args: tuple[str, ...]) -> Story:
        run.start(f"--plan-limit={TIMEOUT}s", *args, faults={"db.exec": fault})
        yield run.ended
        run.judge(1)
        took = run.time_of("cleanup") - run.time_of("begin") - TIMEOUT
        run.expect(took < KILLED, f"it stopped {took:.1f} s after the limit")

    stage.add("solo", story, args=())
    stage.add("two workers", story, args=("-n", "2"))
    stage.play()


def test_g2_a_chain_of_processes_that_live_briefly_is_ended(stage: Stage) -> None:
    """Row 85: none of them lives long enough to be listed; the last one does not survive either."""

    def story(run: Run, moment: str) -> Story:
        run.start(faults={moment: "chain"})
        yield run.ended
        beat = run.folder / "beat"
        size = beat.stat().st_size
        until = time.monotonic() + 0.5
        yield lambda: time.monotonic() > until
        run.expect(beat.stat().st_size == size, "the chain goes on")
        run.judge(0)

    for moment in ("net.pre_exec", "web.post_exec", "db.cleanup"):
        stage.add(moment, story, moment=moment)
    stage.play(1)


FORMS = (
    every_line.plain,
    every_line.generator,
    every_line.coroutine,
    every_line.async_generator,
)


@pytest.mark.filterwarnings("ignore:coroutine 'sleep' was never awaited")  # stopped before
@pytest.mark.skipif(sys.gettrace() is not None, reason="another trace function is in place")
def test_g2_a_stop_before_any_line_of_a_step_leaves_nothing(tally: Tally) -> None:
    """Row 78: also before any line of our functions that call it, in its thread and the loop's."""
    for make, interrupts in itertools.product(FORMS, (False, True)):
        lines = every_line.stopped(make, every_line.MANY, interrupts=interrupts)[1].events
        for number in range(lines):
            every_line.check(*every_line.stopped(make, number, interrupts=interrupts))
        tally.runs += lines + 1
        tally.faults += lines


TRACED = """
import sys, threading
def trace(*_):
    return trace
"""
FROM_START = "threading.settrace(trace)\nsys.settrace(trace)\n"
TRACED_TESTS = """
import sys
def test_traced():
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    len("a call")
    sys.settrace(before)
"""


def test_g18_a_trace_function_does_not_hang_the_run(stage: Stage) -> None:
    """Row 84: as coverage sets it, from the start or after a step has been stopped."""

    def story(run: Run, setting: str, fault: str) -> Story:
        run.write("conftest.py", TRACED + setting + CONFTEST)
        run.write("test_traced.py", TRACED_TESTS)
        options = {"db": {"timeout": 2 * TIMEOUT}}
        run.start(faults={"db.exec": fault}, options=options)
        yield run.ended
        run.judge(1)
        run.expect("TIMED OUT" in run.output(), "it is not named")
        run.expect("1 passed" in run.output(), "the traced test did not pass")

    for fault in ("hold", "spin"):
        stage.add(f"{fault} from the start", story, FROM_START, fault)
        stage.add(f"{fault} later", story, "", fault)
    stage.play(WAITING)
