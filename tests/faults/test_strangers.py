"""Rows 48 to 51, 55, 56 and 66: processes and steps have changed since the journal was written."""

from __future__ import annotations

import json
import subprocess
import time

from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.processes.identity import birth_of
from tests.faults.harness.aftermath import (
    change,
    clean_up,
    environments,
    journal_of,
    judge,
    orphaned,
    sleepers,
)
from tests.faults.harness.scenario import SLACK, STEPS, Run, Stage, Story


def test_g11_nobody_is_signalled_after_a_reboot(stage: Stage) -> None:
    """Row 49: after a reboot recorded pids are void, but hooks and deferred calls run."""

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
    """Row 48: a process that now has a recorded pid is not signalled."""

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
    """Rows 50, 51, 66: daemons of programs and of the step itself do not delay the cleanup."""
    conftest = f"""
import os, sys, time
from tests.faults.harness.fakes import note

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
        # A process forked without our knowledge has no cookie, and is not covered by any promise.
        yield lambda: len(sleepers(run)) == 1
        for process in sleepers(run):
            process.kill()

    stage.add("daemons", story)
    stage.play()


HIDING = """\
import os
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.closerange(0, 256)
code = "echo $$ >new; mv new daemon; sleep 600 & wait"
os.execve("/bin/sh", ["sh", "-c", code], {"PATH": os.defpath})
"""


def test_g7_a_daemon_that_hides_is_ended(stage: Stage) -> None:
    """Row 51: a daemon that has left its session and overwritten its environment is ended."""
    conftest = f"""
import os, sys

def pytest_plan_configure(plan):
    from pytest_plan import GenericStep

    def exec(ctx):
        getattr(ctx, "METHOD")([sys.executable, "-c", {HIDING!r}])
        ctx.wait_until(lambda: os.path.exists("daemon"))

    plan.add_step(GenericStep(exec=exec), name="net")
"""
    tests = "import os\ndef test_dies(net):\n    os.kill(os.getpid(), 9)\n"

    def story(run: Run, method: str) -> Story:
        run.write("conftest.py", conftest.replace("METHOD", method))
        run.write("test_it.py", tests)
        run.start()
        yield run.ended
        yield lambda: not environments(run)
        daemon = int((run.project / "daemon").read_text())
        run.expect(birth_of(daemon) == "", "the daemon lives on")

    stage.add("run", story, "run")
    stage.add("start", story, "start")
    stage.play()


def test_g11_bystanders_are_not_signalled(stage: Stage) -> None:
    """Row 48: a name, folder, parent, user or open log in common is no reason for a signal."""
    conftest = """
import os, subprocess, sys

def pytest_plan_configure(plan):
    from pytest_plan import GenericStep

    def exec(ctx):
        ctx.start(["sleep", "600"], cwd=ctx.tmp_path)
        ctx.log("begun")
        with open("places", "w") as file:
            print(ctx.tmp_path, ctx.artifacts / "log.txt", file=file)
        ctx.wait_until(lambda: os.path.exists("go"))

    plan.add_step(GenericStep(exec=exec), name="net")
"""

    def story(run: Run, kill: int) -> Story:
        run.write("conftest.py", conftest)
        run.write("test_it.py", f"import os\ndef test_it(net):\n    os.kill(os.getpid(), {kill})\n")
        run.start()
        places = run.project / "places"
        yield lambda: places.exists() and len(places.read_text().split()) == 2
        folder, log = places.read_text().split()
        bystanders = [
            subprocess.Popen(["sleep", "600"], cwd=folder),
            subprocess.Popen(["tail", "-f", log], stdout=subprocess.DEVNULL),
            subprocess.Popen(["sleep", "600"], start_new_session=True),
        ]
        run.write("go", "")
        yield run.ended
        yield lambda: not environments(run) and not run.processes()
        run.expect([one.poll() for one in bystanders] == [None] * 3, "a bystander was signalled")
        for one in bystanders:
            one.kill()
            one.wait()

    stage.add("green", story, 0)
    stage.add("sigterm", story, 15)
    stage.add("sigkill", story, 9)
    stage.play()


def test_g7_a_step_that_was_renamed_or_removed_is_kept_and_reported(stage: Stage) -> None:
    """Rows 55, 56: known steps are cleaned up and the others kept, even with a broken conftest."""

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
