"""Rows 39, 44 and 73: a process limit, a folder that is closed, a process that is another's."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

from pytest_plan.engine.processes.identity import birth_of
from tests.faults.harness.aftermath import (
    NO_REAPER,
    PLAIN,
    clean_up,
    cleanup_said,
    deeds,
    environments,
)
from tests.faults.harness.scenario import ROOT, Run, Stage, Story

MOST = 14  # processes and threads; more than a run needs
REASONS = (
    "the system refused a new thread",
    "cannot be written: can't start new thread",
    "Resource temporarily unavailable",
)


def other() -> int:
    """Return the id of a user and group without any process."""
    return 60_000 + os.getpid() % 4_000


def as_other(*also: str) -> list[str]:
    """Return the command that runs another command as that user, with these capabilities."""
    # The user may read everything: our Python may be in a folder closed to other users.
    caps = ",".join(f"+{name}" for name in ("dac_read_search", *also))
    return ["setpriv", f"--reuid={other()}", f"--regid={other()}", "--clear-groups",
            f"--inh-caps={caps}", f"--ambient-caps={caps}"]  # fmt: skip


@functools.cache
def missing() -> str:
    """Return why nothing can be run as another user; empty if it can."""
    if shutil.which("setpriv") is None or os.geteuid() != 0:
        return "needs setpriv, and to be root"
    argv = [*as_other(), sys.executable, "-c", "import pytest, pytest_plan"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, check=False, env=variables, capture_output=True)
    return f"another user cannot run this Python: {done.stderr!r}" if done.returncode else ""


needs_other = pytest.mark.skipif("missing()", reason="needs root, and setpriv")


def give(run: Run) -> None:
    """Make the user the owner of the run's folder; other places stay closed to writes."""
    run.state.mkdir()
    for path in (run.folder, *run.folder.rglob("*")):
        os.chown(path, other(), other())


def limited(count: int) -> Callable[[], None]:
    """Return a function that limits the number of the user's processes and threads."""
    return lambda: resource.setrlimit(resource.RLIMIT_NPROC, (count, count))


@needs_other
def test_g1_a_process_limit_leaves_nothing_behind(stage: Stage) -> None:
    """Row 39: whatever RLIMIT_NPROC prevents is reported, and everything is cleaned up."""
    statuses: dict[int, int | None] = {}

    def story(run: Run, count: int) -> Story:
        give(run)
        run.start(argv=PLAIN, preexec_fn=limited(count), under=as_other())
        yield run.ended
        statuses[count] = run.status
        run._tally.faults += run.status != 0
        run.judge(internal_error=None)
        output = run.output()
        said = any(reason in output for reason in REASONS)
        run.expect(said if run.status in (1, 4) else run.status == 0, f"status {run.status}")
        run.expect("Traceback" not in output, "a traceback")
        run.expect(not environments(run), "an environment is left")

    for count in range(1, MOST):
        stage.add(f"{count} processes", story, count)
    stage.play(1)
    assert statuses[1] != 0
    assert statuses[MOST - 1] == 0


def closed(run: Run) -> None:
    """Give the user everything but the folder of the project."""
    give(run)
    os.chown(run.project, 0, 0)
    run.project.chmod(0o755)


@needs_other
def test_g1_a_read_only_project_runs_with_its_journal_elsewhere(stage: Stage) -> None:
    """Row 44, before the run: a warning says where the journal is, and nothing is left there."""

    def story(run: Run) -> Story:
        closed(run)
        run.start("-p", "no:cacheprovider", argv=PLAIN, under=as_other())
        yield run.ended
        run._tally.faults += 1
        run.judge(0)
        said = " ".join(run.output().split())
        run.expect(
            "cannot be created: Permission denied; the journal of this run is in" in said, said
        )

    stage.add("read only", story)
    stage.play()


@needs_other
def test_g1_a_named_environment_that_cannot_be_created_is_refused(stage: Stage) -> None:
    """Row 44, before the run: a run that names an environment is refused, and no step begins."""

    def story(run: Run) -> Story:
        closed(run)
        run.start("--plan-environment=dev", argv=PLAIN, under=as_other())
        yield run.ended
        run._tally.faults += 1
        run.judge(4)
        run.expect("cannot be created: Permission denied" in run.output(), run.output())
        run.expect(not run.notes("begin"), "a step has begun")

    stage.add("named", story)
    stage.play()


@needs_other
@pytest.mark.parametrize("moment", ["net.exec", "web.exec", "test.call", "web.cleanup"])
def test_g1_a_folder_that_becomes_read_only_loses_nothing(stage: Stage, moment: str) -> None:
    """Row 44, during the run: open files still work, and the next cleanup removes the rest."""

    def story(run: Run) -> Story:
        give(run)
        run.start(*NO_REAPER, argv=PLAIN, faults={moment: "hold"}, under=as_other())
        yield run.reached(moment)
        (folder,) = environments(run)
        folder.chmod(0o500)
        run._tally.faults += 1
        run.release()
        yield run.ended
        run.judge(0)
        run.expect(environments(run), "it was not read only")
        before = deeds(run)
        run.expect(clean_up(run, under=as_other()) == 0, cleanup_said(run))
        run.expect(not environments(run), "the folder is left")
        run.expect(deeds(run) == before, "something was cleaned up twice")

    stage.add(moment, story)
    stage.play()


STUBBORN = """\
import shutil

def pytest_plan_configure(plan):
    from pytest_plan import GenericStep
    from tests.faults.harness.fakes import note

    def net(ctx):
        note("begin", "net")
        ctx.defer(note, "cleanup", "net")

    def db(ctx):
        note("begin", "db")
        ctx.defer(note, "cleanup", "db")
        as_other = ["setpriv", "--reuid=OTHER", "--regid=OTHER", "--clear-groups"]
        if METHOD == "run":
            ctx.run(["setsid", "--fork", *as_other, "sleep", "600"])
        else:
            ctx.start([*as_other, "sleep", "600"], stop_grace="1s")

    plan.add_step(GenericStep(exec=net), name="net")
    plan.add_step(GenericStep(exec=db), name="db", needs=["net"])
"""


@needs_other
@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["solo", "two workers"])
def test_g6_a_process_that_cannot_be_ended_is_named(stage: Stage, args: tuple[str, ...]) -> None:
    """Row 73: a program has become another user's; the run is red, and the rest is cleaned up."""

    def story(run: Run, method: str) -> Story:
        user = other() + 1  # pytest may become this user, but may not signal its processes
        steps = STUBBORN.replace("OTHER", str(user))
        run.write("conftest.py", f"METHOD = {method!r}\n{steps}")
        run.write("test_it.py", "def test_it(db):\n    pass\n")
        give(run)
        under = as_other("setuid", "setgid")
        run.start(*args, *NO_REAPER, argv=PLAIN, under=under)
        yield run.ended
        run._tally.faults += 1
        run.judge(1, needs={}, left=["db"], exits=False)
        (left,) = [one for one in psutil.process_iter() if is_of(one, user)]
        named = f"processes survived SIGKILL: 'sleep' (pid {left.pid})"
        run.expect(named in " ".join(run.output().split()), run.output())
        run.expect("db" in run.output().partition("cleanup FAILED")[0], "no line of its step")
        run.expect(run.notes("cleanup") == ["db", "net"], f"cleaned up: {run.notes('cleanup')}")
        run.expect(environments(run), "nothing is left for the next cleanup")
        run.expect(clean_up(run, under=as_other("kill")) == 0, cleanup_said(run))
        run.expect(birth_of(left.pid) == "", "the next cleanup has not ended it")
        run.expect(not environments(run), "an environment is left")

    for method in ("run", "start"):
        stage.add(method, story, method)
    stage.play(1)


def is_of(process: psutil.Process, user: int) -> bool:
    """Return whether a process belongs to a user."""
    try:
        return process.uids().real == user and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
