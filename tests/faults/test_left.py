"""Rows 18, 19, 22, 27 and 31: the next owner finishes what one has left, or reports it once."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import pytest

from pytest_plan import Plan
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.environments.environment import Environment, names
from pytest_plan.engine.environments.recovery import recover
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.execution.run import Run as Revived
from pytest_plan.engine.execution.run import revive
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.plan import definition_of
from pytest_plan.engine.processes.identity import Identity, boot_id
from tests.engine.support import journals
from tests.faults.harness.aftermath import (
    NO_REAPER,
    PLAIN,
    clean_up,
    environments,
    journal_of,
    judge,
    nothing_more,
    over,
    reaper_of,
    says_how_to_go_on,
)
from tests.faults.harness.scenario import BACKWARD, SLACK, STEPS, Run, Stage, Story

TREES_GONE = 2.0 * SLACK  # seconds
GOODBYE = 1.0  # seconds that pytest waits for the reaper to exit
modes = pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["solo", "two workers"])


@modes
def test_g5_a_cleanup_that_exceeds_its_time_is_kept_for_the_next_owner(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """Row 18: the next owner cleans up the step whose cleanup was abandoned, and no other step."""

    def story(run: Run, moment: str) -> Story:
        step = moment.partition(".")[0]
        run.start(
            *args, *NO_REAPER, faults={moment: "stubborn"}, options={step: {"cleanup_timeout": 0.2}}
        )
        yield run.ended
        run.judge(1, left=[step], stuck=[step])
        says_how_to_go_on(run)
        due = [one.name for one in read(journal_of(run)).due()]
        run.expect(due == [step], f"due: {due}")
        run.expect(clean_up(run) == 0, "something is left")
        judge(run, most=2)
        cleaned = run.notes("cleanup")
        run.expect(cleaned[3:] == [step], f"cleaned up: {cleaned}")
        nothing_more(run)

    for moment in BACKWARD:
        stage.add(moment, story, moment)
    stage.play(2)


def test_g5_what_exceeds_the_cleanup_limit_is_kept_for_the_next_owner(stage: Stage) -> None:
    """Row 19: the next owner cleans up what the limit cut off, once and in reverse order."""

    def story(run: Run, moment: str) -> Story:
        args = (*NO_REAPER, "--plan-cleanup-limit=0.3s")
        run.start(*args, faults={moment: "stubborn"})
        yield run.ended
        step = moment.partition(".")[0]
        left = STEPS[: 3 - BACKWARD.index(moment)]
        run.judge(1, left=left, stuck=[step])
        says_how_to_go_on(run)
        before = len(run.notes("cleanup"))
        run.expect(clean_up(run) == 0, "something is left")
        cleaned = run.notes("cleanup")[before:]
        run.expect(cleaned == list(reversed(left)), f"cleaned up: {cleaned}")
        judge(run, most=2)
        nothing_more(run)

    for moment in BACKWARD:
        stage.add(moment, story, moment)
    stage.play(2)


@modes
def test_g7_after_the_third_signal_the_reaper_cleans_up(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """Row 22: pytest exits within a second with advice, and the reaper finishes the work."""

    def story(run: Run, moment: str) -> Story:
        run.start(*args, faults={"test.call": "hold", moment: "hold"})
        yield run.reached("test.call")
        run.signal(signal.SIGINT)
        yield run.reached(moment)
        yield run.is_later  # otherwise the signal counts as a copy of the first one
        run.signal(signal.SIGINT)
        yield run.says("still cleaning up")
        run.signal(signal.SIGINT)
        yield run.ended
        left_after = run.time_of("leaving", str(run.pid)) - run.moved
        run.expect(left_after < SLACK, f"it took {left_after:.1f} s to leave")
        run.expect(run.status == 2, f"exit status {run.status}")
        says_how_to_go_on(run)
        run.release()
        yield over(run)
        judge(run, most=2)
        nothing_more(run)

    for moment in BACKWARD:
        stage.add(moment, story, moment)
    stage.play(2)


CLOSURES = """\
from tests.faults.harness.fakes import LONG, at, note
from pytest_plan import GenericStep

def pytest_plan_configure(plan):
    def tree(ctx):
        note("begin", "tree")
        ctx.start(["sleep", str(LONG)])

    def tail(tree):
        note("begin", "tail")
        yield
        note("cleanup", "tail")

    def deferred(ctx, tail):
        note("begin", "deferred")
        ctx.defer(lambda: note("cleanup", "deferred"))

    plan.add_step(GenericStep(exec=tree), name="tree")
    plan.add_step(GenericStep(exec=tail), name="tail", needs=["tree"])
    plan.add_step(GenericStep(exec=deferred), name="deferred", needs=["tail"])
"""

ONE_TEST = """\
from tests.faults.harness.fakes import at

def test_it(deferred):
    at("test")
"""


def test_g7_closures_of_a_dead_owner_are_reported_once(stage: Stage) -> None:
    """Row 27: process trees end within 2 s; what only the owner could undo is reported once."""

    def story(run: Run) -> Story:
        run.write("conftest.py", CLOSURES)
        run.write("test_it.py", ONE_TEST)
        run.start(faults={"test": "hold"})
        yield run.reached("test")
        (sleeper,) = [one for one in psutil.process_iter() if is_sleeper(run, one)]
        run.signal(signal.SIGKILL)
        yield lambda: not is_sleeper(run, sleeper)
        took = time.monotonic() - run.moved
        run.expect(took < TREES_GONE, f"the tree was gone after {took:.1f} s")
        yield over(run)
        run.expect(len(environments(run)) == 1, "nobody is told what is left")
        run.release()
        run.start(argv=PLAIN)
        yield run.ended
        run.expect(run.status == 0, f"exit status {run.status}")
        said = run.output()
        for part in ("tail", "code after its yield", "deferred", "lambda"):
            run.expect(part in said.partition("plan: tree ")[0], f"{part} is not named")
        run.start(argv=PLAIN)
        yield run.ended
        run.expect("yield" not in run.output(), "it is named twice")
        cleaned = run.notes("cleanup")
        run.expect(cleaned == ["deferred", "tail"] * 2, f"cleaned up: {cleaned}")
        run.expect(not environments(run), f"left: {environments(run)}")

    stage.add("closures", story)
    stage.play()


def is_sleeper(run: Run, process: psutil.Process) -> bool:
    """Return whether this process is the program of one of the run's steps."""
    try:
        return process.name() == "sleep" and run._is_ours(process)
    except psutil.Error:
        return False


LATE = """
def pytest_unconfigure():
    at("late")
"""


def test_g13_a_reaper_that_is_stopped_at_the_end_is_killed(stage: Stage) -> None:
    """Row 31: pytest waits a second for the reaper, then leaves neither it nor a zombie."""

    def story(run: Run) -> Story:
        conftest = (run.project / "conftest.py").read_text()
        run.write("conftest.py", conftest + LATE)
        run.start(faults={"net.cleanup": "hold", "late": "hold"})
        yield run.reached("net.cleanup")
        reaper = reaper_of(run)
        run.kill(reaper, signal.SIGSTOP)
        run.release()
        yield run.reached("late")
        waited = run.time_of("at", "late") - run.time_of("cleaned", "net")
        run.expect(GOODBYE <= waited < GOODBYE + 2 * SLACK, f"it waited for {waited:.1f} s")
        yield run.ended
        run.expect(not reaper.is_running(), "the reaper is left")
        run.judge(0)
        run.expect(not environments(run), f"left: {environments(run)}")

    stage.add("stopped", story)
    stage.play()


@pytest.mark.parametrize("boot", ["earlier", None])
def test_g3_what_was_in_a_program_of_an_earlier_boot_is_tried_once(
    tmp_path: Path, boot: str | None
) -> None:
    """A cleanup that fails after a restart is the last one; else the next owner repeats it."""
    tried = []

    def drop() -> None:
        tried.append("tables")
        raise ConnectionError("no server")

    server = GenericStep(exec=lambda ctx: ctx.start(["sleep", "600"]) and None)
    steps = {"server": server, "tables": GenericStep(cleanup=drop)}
    environment = Environment(tmp_path / "plan", "left")
    journals.left(tmp_path / "journal", environment.file, steps)  # which has ended the server
    journals.settle(environment.file)
    owner = Identity(2**22 + 1, "1", boot or boot_id())  # no process has this id
    with journals.sealing(environment.file) as connection:
        row = ("owner", json.dumps(owner._asdict()))
        connection.execute("INSERT INTO environment (key, value) VALUES (?, ?)", row)
    environment.release()
    plan = Plan()
    for name, step in steps.items():
        plan.add_step(step, name=name)
    definition = definition_of(plan)

    def revived(restorer: Restorer, journal: Journal) -> Revived:
        return revive(restorer, definition.options, journal, clock=SystemClock(), listeners=[])

    tried.clear()
    for _ in range(2):
        recover(tmp_path / "plan", definition.steps, revived)
    assert tried == ["tables"] * (1 if boot else 2)
    assert names(tmp_path / "plan") == ([] if boot else ["left"])
