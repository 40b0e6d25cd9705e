"""Rows 1 to 3, 7, 8, 32 to 35, 59, 61 to 64, 79: everything that ends a run early."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence

import pytest

from tests.faults.harness.project import CONFTEST
from tests.faults.harness.scenario import FORWARD, SLACK, TESTING, WAITING, Run, Stage, Story

modes = pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["solo", "two workers"])
PLAIN = ("-m", "pytest", "-p", "pytest_plan")  # in these runs warnings are not errors
TIMEOUT = ("-p", "pytest_timeout")


def do(
    run: Run,
    *args: str,
    faults: dict[str, str],
    status: int | Sequence[int],
    once: Iterable[str] = (),
    argv: Sequence[str] = (*PLAIN, "-W", "error"),
    internal_error: bool = False,
    owner_only: bool = False,
) -> Story:
    """Run with these faults and check that the exit status is one of `status`."""
    run.start(*args, faults=faults, argv=argv)
    yield run.ended
    statuses = [status] if isinstance(status, int) else status
    run.expect(run.status in statuses, f"exit status {run.status}, not one of {statuses}")
    run.judge(internal_error=internal_error, owner_only=owner_only)
    for text in once:
        run.expect(text in run.output(), f"{text!r} is not in the output")


def test_g2_every_begun_step_is_undone_after_an_error_in_any_hook(stage: Stage) -> None:
    """Rows 1 to 3: the error names the step and the hook, and all begun steps are cleaned up."""
    for moment in FORWARD:
        texts = (f"ValueError: {moment}", f"step '{moment.split('.')[0]}'", "5 blocked")
        stage.add(moment, do, faults={moment: "error"}, status=1, once=texts)
    stage.play()


@pytest.mark.parametrize(
    ("fault", "in_step", "in_test"),
    [("interrupt", 2, 2), ("exit", 7, 7), ("system_exit", 7, 1)],
)
def test_g2_every_begun_step_is_undone_after_a_request_to_leave(
    stage: Stage, fault: str, in_step: int, in_test: int
) -> None:
    """Rows 7, 8, 62: KeyboardInterrupt, pytest.exit and SystemExit clean up and keep the status."""
    for moment in [*FORWARD, *TESTING]:
        status = in_test if moment in TESTING else in_step
        stage.add(moment, do, faults={moment: fault}, status=status)
    stage.play()


@pytest.mark.parametrize("fault", ["interrupt", "exit", "system_exit"])
def test_g12_a_request_to_leave_cleans_up_once_with_workers(stage: Stage, fault: str) -> None:
    """A request in a test ends its worker, one in a step the session; cleanup runs once."""
    for moment in ("db.exec", *TESTING):
        # pytest.exit with an exit code in a worker is an internal error of pytest-xdist.
        internal = fault == "exit" and moment in TESTING
        status = 3 if internal else (1, 2, 7)
        what = {"faults": {moment: fault}, "status": status, "internal_error": internal}
        stage.add(moment, do, "-n", "2", **what)
    stage.play()


@modes
def test_g2_other_plugins_that_raise_do_not_prevent_cleanup(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """Cleanup runs although another plugin raises in sessionstart, sessionfinish or a test."""
    eager = ("-o", "plan_eager=true")
    for moment, status in (("start", 3), ("finish", 1), ("protocol", (1, 3)), ("report", 3)):
        solo = not args
        internal = moment in ("start", "report") or (moment == "protocol" and solo)
        what = {"faults": {moment: "error"}, "status": status, "internal_error": internal}
        if moment == "protocol" and not solo:
            continue  # a worker that fails in this way counts as crashed
        stage.add(moment, do, *args, *eager, **what)
    stage.play()


def test_g2_stopping_at_the_first_failure_cleans_up_once(stage: Stage) -> None:
    """Row 61: cleanup runs once, even with workers, where pytest tears down twice (#12021)."""
    for moment in TESTING:
        option = "-x" if moment == "test.call" else "--maxfail=1"  # equivalent for pytest
        for args, status in (((option,), 1), ((option, "-n", "2"), 2)):
            stage.add(f"{moment} {args}", do, *args, faults={moment: "error"}, status=status)
    stage.play()


@pytest.mark.parametrize("fault", ["die", "kill", "segfault"])
def test_g12_a_crashed_worker_loses_and_repeats_nothing(stage: Stage, fault: str) -> None:
    """Row 59: the crashed test fails, and the environment stays intact and is cleaned up once."""
    for moment in TESTING:
        # How a worker died does not affect whether it is replaced, so one fault is enough.
        for restarts in ((), ("--max-worker-restart=0",)) if fault == "kill" else ((),):
            what = {"faults": {moment: fault}, "status": (1, 2), "once": ["crashed"]}
            stage.add(f"{moment} {restarts}", do, "-n", "2", *restarts, **what)
    stage.play()


def test_g12_a_signal_to_one_worker_loses_and_repeats_nothing(stage: Stage) -> None:
    """A worker may be killed while it waits for the plan or runs a test."""

    def story(run: Run, moment: str, number: int) -> Story:
        run.start("-n", "2", faults={moment: "hold"})
        yield run.reached(moment)
        victims = run.workers()
        if moment == "test.call":
            pid = next(line.pid for line in run.history if line.words == (moment,))
            victims = {pid: victims[pid]}
        run.kill(next(iter(victims.values())), number)
        run.release()
        yield run.ended
        run.judge()

    for moment in ("db.exec", "test.call"):
        for number in (signal.SIGKILL, signal.SIGTERM):
            stage.add(f"{moment} {number}", story, moment=moment, number=number)
    stage.play()


@pytest.mark.parametrize("fault", ["memory", "recurse"])
def test_g2_exhaustion_in_a_step_is_an_error_like_others(stage: Stage, fault: str) -> None:
    """Rows 34 and 35: MemoryError and RecursionError fail the step and are reported."""
    text = {"memory": "MemoryError", "recurse": "RecursionError"}[fault]
    for moment in ("net.exec", "web.exec"):
        stage.add(moment, do, faults={moment: fault}, status=1, once=[text])
    stage.play()


def test_g2_a_process_forked_in_a_step_or_a_test_cleans_nothing_up(stage: Stage) -> None:
    """Row 64: the child returns into the engine or pytest but does not act as the owner."""

    def story(run: Run, moment: str) -> Story:
        run.start(faults={moment: "fork"})
        yield run.ended
        child = next(line.pid for line in run.history if line.what == "child")
        own = ("child", "done", "down thing")  # recorded by the function itself after the fork
        lines = [line for line in run.history if line.pid == child and line.what not in own]
        did = [" ".join((line.what, *line.words)) for line in lines]
        did = [text for text in did if text not in own]
        run.expect(not did, f"the child went on: {did}")
        run.judge(0)

    for moment in ("net.exec", "db.post_exec", "web.exec", "test.setup", "test.call"):
        stage.add(moment, story, moment=moment)
    stage.play()


ASYNC = """
import asyncio

async def task():
    await asyncio.sleep(0)
    at("task")

async def undo():
    at("undo")

@pytest.mark.plan_step(autouse=True)
async def late(ctx):
    ctx.defer(undo)
    at("head")
    await asyncio.create_task(task())
    asyncio.get_running_loop().call_soon(at, "callback")
    await asyncio.sleep(0.05)
    yield
    at("tail")
"""


@modes
def test_g2_a_process_forked_in_async_code_or_collection_ends_at_once(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """Row 79: it runs no test, cleans nothing up, and prints no summary."""

    def story(run: Run, moment: str) -> Story:
        run.write("conftest.py", CONFTEST + ASYNC)
        run.start(*args, faults={moment: "fork"})
        yield run.ended
        children = {line.pid for line in run.history if line.what == "child"}
        did = [line for line in run.history if line.pid in children and line.what != "child"]
        run.expect(children, "nothing forked")
        run.expect(not did, f"the child went on: {did}")
        run.judge(0)
        run.expect(run.output().count("5 passed") == 1, "there is not one summary")

    for moment in ("head", "task", "callback", "tail", "undo", "collecting"):
        stage.add(moment, story, moment=moment)
    stage.play()


IN_COPY = """
import os
from tests.faults.harness.fakes import note
from pytest_plan import StateError

def test_reads(plan, web):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        return
    assert plan.state["web"] == web
    for use in (lambda: plan.state["other"], lambda: plan.state.update(web=1)):
        try:
            use()
        except StateError:
            continue
        os._exit(1)
    os._exit(0)
"""


@modes
def test_g2_a_forked_process_reads_only_the_values_of_its_steps(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """Every other access to the State is refused, with and without workers."""

    def story(run: Run) -> Story:
        run.write("test_it.py", IN_COPY)
        run.start(*args)
        yield run.ended
        run.judge(0)

    stage.add("reads", story)
    stage.play()


def test_g2_pytest_timeout_by_signal_fails_the_test_and_all_is_cleaned_up(stage: Stage) -> None:
    """Row 63: the test fails and cleanup runs; provisioning does not count as time of a test."""
    for args in ((), ("-n", "2")):
        for moment in TESTING:
            options = (*args, *TIMEOUT, f"--timeout={SLACK}", "--timeout-method=signal")
            what = {"faults": {moment: "sleep"}, "status": 1, "once": ["Timeout"]}
            stage.add(f"{moment} {args}", do, *options, **what)
    stage.play(WAITING)


def test_g12_pytest_timeout_by_thread_ends_a_worker_and_all_is_cleaned_up(stage: Stage) -> None:
    """Row 63: the method `thread` costs a worker, but not the environment."""
    options = ("-n", "2", *TIMEOUT, f"--timeout={SLACK}", "--timeout-method=thread")
    for moment in TESTING:
        stage.add(moment, do, *options, faults={moment: "sleep"}, status=1)
    stage.play()


def test_g2_a_timeout_method_that_would_skip_cleanup_is_warned_about_at_start(
    stage: Stage,
) -> None:
    """Row 63, solo: a warning says at the start that the method `thread` prevents cleanup."""

    def story(run: Run, *args: str, warns: bool) -> Story:
        run.start(*TIMEOUT, "--timeout=100", *args, argv=PLAIN)
        yield run.ended
        run.judge(0)
        text = run.output()
        warned = "method 'thread' ends the process" in text and "--timeout-method=signal" in text
        run.expect(warned is warns, f"warned: {warned}")

    def comes_true(run: Run) -> Story:
        args = (*TIMEOUT, f"--timeout={SLACK}", "--timeout-method=thread")
        run.start(*args, faults={"test.call": "sleep"}, argv=PLAIN)
        yield run.ended
        run.expect(run.status == 1, f"exit status {run.status}")
        yield lambda: set(run.notes("cleanup")) == {"net", "db", "web"}  # performed by the reaper
        run.expect("method 'thread' ends the process" in run.output(), "not warned at start")

    stage.add("thread", story, "--timeout-method=thread", warns=True)
    stage.add("ini", story, "-o", "timeout_method=thread", warns=True)
    stage.add("workers", story, "--timeout-method=thread", "-n", "2", warns=False)
    stage.add("signal", story, "--timeout-method=signal", warns=False)
    stage.add("comes true", comes_true)
    stage.play()
