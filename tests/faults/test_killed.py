"""Rows 25 to 29, 32, 33, 46 to 51, 55, 56, 60, 66: the owner dies, and somebody cleans up."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pytest_plan.engine.recorded import read
from tests.faults import checker, crashes
from tests.faults.scenario import MOMENTS, NEEDS, PATIENCE, SLACK, STEPS, Run, Stage, Story

CRASHES = ("-p", "tests.faults.crashes")
NO_REAPER = ("-o", "plan_reaper=false")
COMMITS = 30  # more durable writes than a run has
modes = pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["solo", "two workers"])


def environments(run: Run) -> list[Path]:
    """Return the folders of environments that are there."""
    return list((run.project / ".pytest_plan" / "environments").glob("*"))


def journal_of(run: Run) -> Path:
    """Return the journal of the run, which has one."""
    (folder,) = environments(run)
    return folder / "journal.sqlite"


def is_over(run: Run) -> bool:
    """Whether whoever cleans up has ended: no process is left, workers of xdist included."""
    return run.ended() and not run.processes()


def clean_up(run: Run, *args: str, env: dict[str, str] | None = None) -> int:
    """Run `pytest --plan-cleanup` in the project; return its exit status."""
    argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-p", "no:xdist"]
    variables = {**run._variables(), "FAULTS_OPTIONS": "{}", **(env or {})}
    with (run.folder / "cleanup").open("ab") as output:
        return subprocess.run(
            [*argv, "--plan-cleanup", *args], cwd=run.project, env=variables, check=False,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=PATIENCE,
        ).returncode  # fmt: skip


def judge(run: Run, *, most: int = 1, left: tuple[str, ...] = ()) -> None:
    """Check what must hold when others have cleaned up after a run.

    Args:
        run: the run.
        most: at most so many owners have begun a cleanup.
        left: steps that could not be cleaned up.
    """
    history = [line for line in run.history if line.what != "exit"]
    begun = {line.words[0] for line in history if line.what == "begin"}
    for step in sorted(begun - set(left)):
        count = [line.words[0] for line in history if line.what == "cleanup"].count(step)
        run.expect(1 <= count <= most, f"{step} began, and was cleaned up {count} times")
    if most == 1 and not left:
        run.wrong += checker.violations(history, NEEDS)
    run.expect(not run.processes(), f"processes are left: {run.processes()}")
    if not left:
        run.expect(not environments(run), f"left: {environments(run)}")
    made = [path.name for path in run._temporary.iterdir() if path.name.startswith("plan-")]
    run.expect(not made, f"temporary folders are left: {made}")


def deeds(run: Run) -> list[checker.Line]:
    """Return what was done so far, without the comings and goings of pytest."""
    return [line for line in run.history if line.what in ("begin", "cleanup", "undo", "defer")]


def nothing_more(run: Run) -> None:
    """Check that a further cleanup finds nothing to do."""
    before = deeds(run)
    run.expect(clean_up(run) == 0, "something is left")
    run.expect(deeds(run) == before, "a further cleanup did something")


def dies(run: Run, *args: str, moment: str, fault: str | None = None) -> Story:
    """Die at a moment, by SIGKILL or a fault; the reaper does the rest."""
    run.start(*args, faults={moment: fault or "hold"})
    yield run.reached(moment)
    died = time.monotonic()
    if fault is None:
        run.signal(signal.SIGKILL)
        run.release()
    yield lambda: is_over(run)
    times = [line.time for line in run.history if line.what == "cleanup" and line.time > died]
    took = min(times, default=died) - died
    run.expect(took < 5 * SLACK, f"cleanup began after {took:.1f} s")
    # A cleanup that was cut short is begun again: at least once across owners.
    judge(run, most=2 if moment.endswith(".cleanup") else 1)
    nothing_more(run)


@modes
def test_g7_a_killed_owner_is_cleaned_up_after(stage: Stage, args: tuple[str, ...]) -> None:
    """Row 25: SIGKILL at every moment; the reaper cleans up, a second recovery does nothing."""
    for moment in MOMENTS:
        stage.add(moment, dies, *args, moment=moment)
    stage.play(2)


@pytest.mark.parametrize("fault", ["die", "segfault"])
def test_g7_a_process_that_leaves_without_a_word_is_cleaned_up_after(
    stage: Stage, fault: str
) -> None:
    """Rows 32, 33: `os._exit` and a segmentation fault are deaths like any other."""
    for moment in ("net.exec", "web.post_exec", "test.call"):
        stage.add(moment, dies, moment=moment, fault=fault)
    stage.play(2)


@modes
@pytest.mark.parametrize("when", ["before", "after"])
def test_g1_a_kill_at_any_durable_write_loses_nothing(
    stage: Stage, when: str, args: tuple[str, ...]
) -> None:
    """Row 25: before each commit, and when it is on the disk and nobody has heard of it."""
    reached: list[int] = []

    def story(run: Run, number: int) -> Story:
        run.start(*CRASHES, *args, env={crashes.AT: f"{when}:{number}"})
        yield lambda: is_over(run)
        if run.notes("killed"):
            reached.append(number)
            run._tally.kills += 1
            run._tally.faults += 1
        judge(run, most=2)
        if environments(run):  # it died before there was a reaper
            run.expect(clean_up(run) == 0, "something is left")
        run.expect(clean_up(run) == 0, "something is left after all")
        run.expect(not environments(run), f"left: {environments(run)}")

    numbers = range(1, COMMITS) if not args else range(1, COMMITS, 4)
    for number in numbers:
        stage.add(f"{when} {number}", story, number=number)
    stage.play(2)
    assert len(reached) >= (15 if not args else 4)


def test_g7_the_reaper_survives_the_death_of_the_group(stage: Stage) -> None:
    """Row 26: as a terminal that is closed by force, or a CI system, kills."""

    def story(run: Run, args: tuple[str, ...]) -> Story:
        run.start(*args, faults={"web.exec": "hold"})
        yield run.reached("web.exec")
        run.signal(signal.SIGKILL, group=True)
        yield lambda: is_over(run)
        judge(run)

    for args in ((), ("-n", "2")):
        stage.add(f"{args}", story, args)
    stage.play()


def reaper_of(run: Run) -> psutil.Process:
    """Return the reaper of a run."""
    for child in psutil.Process(run.pid).children():
        if any("lease.py" in part for part in child.cmdline()):
            return child
    raise AssertionError("there is no reaper")


def test_g8_when_both_die_the_next_run_cleans_up(stage: Stage) -> None:
    """Row 28: the reaper first, or with it; nothing is cleaned up twice."""

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
    """Row 28: it is noticed after the step, and the new one does its work."""

    def story(run: Run) -> Story:
        run.start("-W", "default", faults={"net.exec": "hold", "test.call": "kill"})
        yield run.reached("net.exec")
        run.kill(reaper_of(run), signal.SIGKILL)
        run.release()
        yield lambda: is_over(run)
        judge(run)

    stage.add("reaper", story)
    stage.play()


@pytest.mark.parametrize("when", ["before", "after"])
def test_g3_a_cleanup_that_is_killed_is_finished_by_the_next(stage: Stage, when: str) -> None:
    """Row 29: the owner dies, then who cleans up, at each of its writes; at most three owners."""
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


def test_g3_two_who_clean_up_at_once_do_it_once(stage: Stage) -> None:
    """Row 47: the lock decides; the other says so or finds nothing."""

    def story(run: Run) -> Story:
        run.start(*NO_REAPER, faults={"test.call": "kill"})
        yield run.ended
        argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-p", "no:xdist"]
        variables = {**run._variables(), "FAULTS_OPTIONS": "{}"}
        both = [
            subprocess.Popen(
                [*argv, "--plan-cleanup"], cwd=run.project, env=variables,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for _ in range(3)
        ]  # fmt: skip
        yield lambda: all(process.poll() is not None for process in both)
        run.expect({process.returncode for process in both} == {0}, "a cleanup failed")
        judge(run)

    for number in range(6):
        stage.add(f"{number}", story)
    stage.play(2)


def change(run: Run, sql: str, *values: str) -> None:
    """Change what the journal of a dead run tells."""
    connection = sqlite3.connect(journal_of(run))
    with connection:
        connection.execute(sql, values)
    connection.close()


def orphaned(run: Run) -> Callable[[], bool]:
    """Start a run without a reaper that is killed while it has a process; return when it is."""
    run.start(*NO_REAPER, faults={"test.call": "kill"})
    return run.ended


def sleepers(run: Run) -> list[psutil.Process]:
    """Return the programs of the steps that live."""
    return [process for process in psutil.process_iter() if run._is_ours(process)]


def test_g11_nobody_is_signalled_after_a_reboot(stage: Stage) -> None:
    """Row 49: another boot: pids are void, hooks and deferred calls run."""

    def story(run: Run) -> Story:
        yield orphaned(run)
        (sleeper,) = sleepers(run)
        change(run, "UPDATE undo SET data = json_patch(data, ?) WHERE kind = 'tree'",
               json.dumps({"boot": "another"}))  # fmt: skip
        run.expect(clean_up(run) == 0, "something is left")
        run.expect(sleeper.is_running(), "a process of another boot was ended")
        sleeper.kill()
        yield lambda: not run.processes()
        judge(run)

    stage.add("reboot", story)
    stage.play()


def test_g11_a_stranger_with_a_known_pid_is_not_signalled(stage: Stage) -> None:
    """Row 48: the number is somebody else's now."""

    def story(run: Run) -> Story:
        yield orphaned(run)
        stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
        change(run, "UPDATE undo SET data = json_patch(data, ?) WHERE kind = 'tree'",
               json.dumps({"pid": stranger.pid}))  # fmt: skip
        run.expect(clean_up(run) == 0, "something is left")
        run.expect(stranger.poll() is None, "a stranger was signalled")
        run.expect(not run.processes(), "our own was not found by its cookie")
        stranger.kill()
        stranger.wait()
        judge(run)

    stage.add("reuse", story)
    stage.play()


DAEMON = """\
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
"""


def test_g7_daemons_are_found_and_delay_nothing(stage: Stage) -> None:
    """Rows 50, 51, 66: forked by a program, and forked by the step itself with all our files."""
    conftest = f"""
import os, sys, time
from tests.faults.fakes import note

def pytest_plan_configure(plan):
    from pytest_plan import GenericStep

    def exec(ctx):
        ctx.run([sys.executable, "-c", {DAEMON!r}])
        if os.fork() == 0:  # keeps the lock, the lease and the journal, if it can
            os.setsid()
            os.environ.clear()
            time.sleep(600)
            os._exit(0)
        note("begin", "net")

    def cleanup():
        note("cleanup", "net")

    plan.add_step(GenericStep(exec=exec, cleanup=cleanup), name="net")
"""
    tests = "import os\ndef test_dies(net):\n    os.kill(os.getpid(), 9)\n"

    def story(run: Run) -> Story:
        run.write("conftest.py", conftest)
        run.write("test_it.py", tests)
        run.start()
        yield run.ended
        died = time.monotonic()
        yield lambda: run.notes("cleanup") and not environments(run)
        took = run.time_of("cleanup") - died
        run.expect(took < 5 * SLACK, f"cleanup began after {took:.1f} s")
        # What was forked behind our back has no cookie: nobody promises anything about it.
        yield lambda: len(sleepers(run)) == 1
        for process in sleepers(run):
            process.kill()

    stage.add("daemons", story)
    stage.play()


def test_g7_a_step_that_was_renamed_or_removed_is_kept_and_named(stage: Stage) -> None:
    """Rows 55, 56: known steps are cleaned up, the others kept; a broken conftest, too."""

    def story(run: Run, old: str, new: str, left: tuple[str, ...]) -> Story:
        yield orphaned(run)
        conftest = (run.project / "conftest.py").read_text()
        run.write("conftest.py", conftest.replace(old, new))
        run.expect(clean_up(run) == 1, "nothing is said to be left")
        run.expect(
            sorted(set(STEPS) - set(run.notes("cleanup"))) == sorted(left), "others are left"
        )
        run.expect(not run.processes(), "processes are left")
        due = [step.name for step in read(journal_of(run)).due()]
        run.expect(sorted(due) == sorted(left), f"due: {due}")
        run.write("conftest.py", conftest)
        run.expect(clean_up(run) == 0, "something is left")
        counts = sorted(run.notes("cleanup"))
        run.expect(counts == sorted(STEPS), f"cleaned up: {counts}")
        run.expect(not environments(run), f"left: {environments(run)}")

    names = '("net", "db", "web")'
    stage.add("renamed", story, names, '("net", "base", "web")', ("db",))
    stage.add("removed", story, names, '("net",)', ("db", "web"))
    stage.add("added", story, names, '("new", "net", "db")', ("web",))
    stage.add("broken", story, "import json\n", "import no_such_module\n", STEPS)
    stage.play(2)


def test_g12_the_reaper_finishes_what_a_killed_controller_was_cleaning_up(stage: Stage) -> None:
    """Row 60: in the middle of a slow cleanup, with workers."""

    def story(run: Run) -> Story:
        run.start("-n", "2", faults={"db.cleanup": "hold"})
        yield run.reached("db.cleanup")
        run.signal(signal.SIGKILL)
        yield lambda: run.notes("at").count("db.cleanup") == 2
        run.release()
        yield lambda: is_over(run)
        run.expect(run.notes("cleanup") == ["web", "db", "db", "net"], f"{run.notes('cleanup')}")
        judge(run, most=2)

    stage.add("controller", story)
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
