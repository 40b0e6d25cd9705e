"""Rows 16, 80 and 81: the plan's limit, during provisioning and while a test hangs."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.harness.scenario import FORWARD, SLACK, TESTING, WAITING, Run, Stage, Story

LIMIT = 2.0 * SLACK  # seconds
OVERTIME = 2.5 * SLACK  # seconds from the limit until cleanup begins
STUCK = 6.0 * SLACK  # the same, if the test cannot be interrupted
JUNIT = "--junitxml=report.xml"
limit = f"--plan-limit={LIMIT}s"
modes = pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["solo", "two workers"])
timeouts = pytest.mark.parametrize(
    "plugin", [("-p", "pytest_timeout"), ()], ids=["with pytest-timeout", "without"]
)


def overtime(run: Run) -> float:
    """Return the seconds from the limit until cleanup began."""
    return run.time_of("cleanup") - run.time_of("begin") - LIMIT


@modes
def test_g16_the_limit_stops_provisioning(stage: Stage, args: tuple[str, ...]) -> None:
    """Row 16: the running step is stopped, no later step begins, and the tests are blocked."""

    def story(run: Run, *more: str, moment: str) -> Story:
        run.start(limit, JUNIT, *args, *more, faults={moment: "hold"})
        yield run.ended
        run.judge(1)
        took = overtime(run)
        run.expect(-0.5 < took < OVERTIME, f"cleanup began {took:.1f} s after the limit")
        run.expect("limit of" in run.output(), "the limit is not named")
        run.expect(not run.notes("test"), "tests ran")
        counts = run.junit()  # of the five tests and the step
        run.expect(counts.get("tests") == counts.get("errors") == 6, f"JUnit says {counts}")

    for moment in FORWARD if not args else ["db.exec"]:
        stage.add(moment, story, moment=moment)
    stage.add("with pytest-timeout", story, "-p", "pytest_timeout", moment="db.exec")
    stage.play(WAITING)


def hang(run: Run, *args: str, moment: str, fault: str, ends: bool = True) -> Story:
    """Let a test hang beyond the limit, and check how the run ends."""
    run.start(limit, JUNIT, *args, faults={moment: fault})
    yield run.ended
    has_workers = "-n" in args
    run.judge(1, exits=ends or has_workers, torn_down=ends)
    took = overtime(run)
    longest = OVERTIME if ends else STUCK
    run.expect(-0.5 < took < longest, f"cleanup began {took:.1f} s after the limit")
    text = run.output()
    run.expect("limit" in text and "has passed" in text, "the limit is not named")
    run.expect("test_one" in text, "the test is not named")
    if ends or not has_workers:
        run.expect(f"_{fault}" in text, "the stack does not show where it hung")
    if not has_workers:
        run.expect(not run.notes("test"), "later tests ran")
        run.expect(not ends or "4 tests were not run" in text, "they are not counted")
    if ends:
        run.expect(not has_workers or "not run" in text or "4 passed" in text, "none was counted")
        bad = run.junit().get("errors", 0) + run.junit().get("failures", 0)
        run.expect(bad == 1, f"JUnit says {run.junit()}")
    elif has_workers:
        bad = run.junit().get("errors", 0) + run.junit().get("failures", 0)
        run.expect(bad == 1, f"JUnit says {run.junit()}")


@modes
@timeouts
def test_g16_the_limit_ends_a_test_that_hangs(
    stage: Stage, args: tuple[str, ...], plugin: tuple[str, ...]
) -> None:
    """The test fails with its stack, and JUnit, summary and exit status are right."""
    for moment in TESTING:
        for fault in (
            ("sleep", "receive", "acquire", "spin") if moment == "test.call" else ("sleep",)
        ):
            name = f"{moment} {fault}"
            stage.add(name, hang, *args, *plugin, moment=moment, fault=fault)
    stage.play(WAITING)


@modes
def test_g16_the_limit_ends_a_test_that_cannot_be_interrupted(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """Row 80: the test is named, cleanup runs, and its process ends, at 100 % of the lock, too."""
    # Without workers, only the reaper can end a test that keeps the interpreter's lock.
    for fault in ("c_call", "stubborn", "gil") if args else ("c_call", "stubborn"):
        stage.add(fault, hang, *args, moment="test.call", fault=fault, ends=False)
    stage.play(WAITING)


LATE = LIMIT + 12.0  # seconds; the reaper kills a process without a sign of life sooner


def test_g16_the_reaper_spares_a_process_that_was_stopped_or_collects(stage: Stage) -> None:
    """Row 81: SIGSTOP beyond the limit, and a long collection after eager steps; exit status 1."""

    def stopped(run: Run) -> Story:
        run.start(limit, JUNIT, faults={"test.call": "hold"})
        yield run.reached("test.call")
        run.signal(signal.SIGSTOP)
        until = time.monotonic() + LATE
        yield lambda: time.monotonic() > until
        run.signal(signal.SIGCONT)
        yield run.ended
        run.judge(1, torn_down=True)
        run.expect("has passed" in run.output(), "the limit is not named")
        run.expect(run.junit().get("tests"), "there is no JUnit file")

    def collecting(run: Run) -> Story:
        run.start(limit, JUNIT, "-o", "plan_eager=true", faults={"collecting": "hold"})
        yield run.reached("collecting")
        until = time.monotonic() + LATE
        yield lambda: time.monotonic() > until or run.ended()
        run.release()
        yield run.ended
        run.judge(1)
        run.expect("limit" in run.output(), "the limit is not named")
        run.expect(not run.notes("test"), "tests ran")

    stage.add("stopped", stopped)
    stage.add("collecting", collecting)
    stage.play(WAITING)


def test_g16_an_earlier_signal_gives_the_exit_status(stage: Stage) -> None:
    """The test ignores the signal, and the limit ends it: the status is that of the signal."""

    def story(run: Run) -> Story:
        run.start(limit, faults={"test.call": "stubborn"})
        yield run.reached("test.call")
        run.signal(signal.SIGTERM)
        yield run.ended
        run.judge(143, exits=False)
        run.expect("test_one" in run.output(), "the test is not named")

    stage.add("ignored", story)
    stage.play(WAITING)


def test_g16_the_limit_is_one_for_the_clones_of_crashed_workers(stage: Stage) -> None:
    """The replacement of a crashed worker gets only the time that is left."""

    def story(run: Run) -> Story:
        run.start("-n", "1", limit, faults={"test.call": "die", "other.0": "sleep"})
        yield run.ended
        run.judge(1)
        run.expect("other.0" in run.notes("at"), "no clone ran the next test")
        took = overtime(run)
        run.expect(took < OVERTIME, f"cleanup began {took:.1f} s after the limit")

    stage.add("clone", story)
    stage.play(WAITING)


def test_g16_the_smaller_session_timeout_wins(stage: Stage) -> None:
    """The earlier of pytest-timeout's session timeout and the plan's limit ends the run."""

    def story(run: Run, session: str, ours: str, reason: str) -> Story:
        args = ("-p", "pytest_timeout", f"--session-timeout={session}", f"--plan-limit={ours}")
        run.start(*args, faults={"test.call": "hold"})
        yield run.reached("test.call")
        until = time.monotonic() + (SLACK if session != "100" else 1000.0)
        yield lambda: time.monotonic() > until or run.ended()
        run.release()
        yield run.ended
        run.judge(1)
        run.expect(reason in run.output(), f"the reason is not {reason!r}")
        run.expect(not run.notes("test"), "later tests ran")

    short = {"session": str(0.9 * SLACK), "ours": "100s", "reason": "session-timeout"}
    stage.add("theirs", story, **short)
    stage.add("ours", story, session="100", ours=f"{LIMIT}s", reason="the plan's limit")
    stage.play(WAITING)


def test_g16_the_limit_waits_while_a_debugger_is_open(stage: Stage) -> None:
    """A debugging session is not interrupted, and its time does not count."""
    tests = """\
from tests.faults.harness.fakes import at
def test_debugged(web, pytestconfig):
    pytestconfig.hook.pytest_enter_pdb(config=pytestconfig, pdb=None)
    at("test.call")
    pytestconfig.hook.pytest_leave_pdb(config=pytestconfig, pdb=None)
def test_after(web):
    pass
"""

    def story(run: Run) -> Story:
        run.write("test_it.py", tests)
        run.start(limit, faults={"test.call": "hold"})
        yield run.reached("test.call")
        until = run.time_of("begin") + LIMIT + 1.0
        yield lambda: time.monotonic() > until or run.ended()
        run.release()
        yield run.ended
        run.judge(0)

    stage.add("debugger", story)
    stage.play(WAITING)
