"""Readiness: conditions, and the wait for them by `ctx.start`."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.results import PlanCancelledError, StepError, StepTimeoutError
from pytest_plan.engine.plan import Plan
from pytest_plan.engine.processes.process import Process
from pytest_plan.engine.shared.programs.readiness import (
    Condition,
    NotReadyError,
    Target,
    condition_of,
)

LONGEST = 20.0
SLEEPS = ["sleep", "60"]


class Ready(Condition):
    """A condition that is met at a certain try; it counts its tries."""

    def __init__(self, answer: str, at: int = 1) -> None:
        self._answer = answer
        self._at = at
        self.tries = 0
        self.seconds: list[float] = []

    def check(self, target: Target, timeout: float) -> None:
        """Count the try."""
        self.tries += 1
        self.seconds.append(timeout)
        if self.tries < self._at:
            raise NotReadyError(self._answer)


def run(ready: Any, argv: list[str] = SLEEPS, timeout: Any = LONGEST, **options: Any) -> Process:
    """Run a step that starts a program and waits until it is ready; return the program."""
    plan = Plan()
    found: list[Process] = []

    def exec(ctx: Context) -> None:
        found.append(ctx.start(argv, ready=ready, timeout=timeout))

    plan.add_step(GenericStep(exec=exec), name="it", **options)
    plan.execute()
    return found[0]


def cause_of(ready: Any, *arguments: Any, **options: Any) -> BaseException:
    """Run a step whose program does not become ready; return the exception of its hook."""
    with pytest.raises(StepError) as caught:
        run(ready, *arguments, **options)
    return caught.value.__cause__ or caught.value


def test_the_program_is_returned_once_it_is_ready() -> None:
    """The condition is asked until it is met, and then no more."""
    condition = Ready("not yet", at=3)
    assert run(condition).args == ("sleep", "60")
    assert condition.tries == 3


def test_the_message_of_a_timeout_has_the_last_answer() -> None:
    """It does not show how the wait is done."""
    error = cause_of(Ready("tcp 127.0.0.1:1: refused", at=10**6), timeout="0.3s")
    assert type(error) is TimeoutError
    assert str(error) == "not ready after 0.3s: tcp 127.0.0.1:1: refused"
    assert error.__cause__ is None


def test_without_a_timeout_that_of_the_step_holds() -> None:
    """Its error has the last answer as its cause."""
    plan = Plan()
    never = Ready("HTTP 503", at=10**6)
    step = GenericStep(exec=lambda ctx: ctx.start(SLEEPS, ready=never))
    plan.add_step(step, name="it", timeout="0.5s")
    with pytest.raises(StepTimeoutError) as caught:
        plan.execute()
    assert "not ready: HTTP 503" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("exit 3", "'sh' exited with status 3 during startup of step 'it'"),
        ("exit 0", "'sh' exited with status 0 during startup of step 'it'"),
        ("kill -9 $$", "'sh' died of signal 9 during startup of step 'it'"),
    ],
)
def test_a_program_that_ends_fails_the_step_at_once(code: str, text: str) -> None:
    """The error has its exit status, and nobody waits for the timeout."""
    begun = time.monotonic()
    error = cause_of(Ready("not yet", at=10**6), ["sh", "-c", f"sleep 0.2; {code}"], timeout="60s")
    assert str(error) == text
    assert time.monotonic() - begun < LONGEST


def test_conditions_are_joined() -> None:
    """All must be met; the first one that is not met gives the answer."""
    first, second = Ready("first", at=2), Ready("second", at=10**6)
    error = cause_of(first & second & (lambda: True), timeout="0.5s")
    assert str(error) == "not ready after 0.5s: second"
    assert first.tries == second.tries + 1


def test_a_function_may_be_on_either_side() -> None:
    """It is a condition there."""
    condition = Ready("not yet")
    asked: list[str] = []

    def asks(side: str) -> bool:
        asked.append(side)
        return True

    run((lambda: asks("left")) & condition & (lambda: asks("right")))
    assert (asked, condition.tries) == (["left", "right"], 1)


def test_a_function_may_take_what_the_step_gets() -> None:
    """For `ctx.start` that is the program."""
    assert isinstance(run(lambda process: isinstance(process, Process)), Process)


def _fails() -> None:
    raise ValueError("the\nbase is not open")


@pytest.mark.parametrize(
    ("function", "answer"),
    [(_fails, "_fails: ValueError: the base is not open"), (lambda: 0, ": 0")],
)
def test_the_answer_of_a_function_is_in_the_message(
    function: Callable[[], Any], answer: str
) -> None:
    """It is the exception on one line, or the value."""
    assert str(cause_of(function, timeout="0.2s")).endswith(answer)


async def _is_async() -> bool:
    return True


@pytest.mark.parametrize(
    ("junk", "text"),
    [
        ("http", "ready: 'http' is not a condition; use http(...)"),
        (30, "ready: 30 is not a condition"),
        (Condition, "is not a condition; use http(...)"),
        (_is_async, "is async; use a function that is not"),
        (lambda one, two: True, "takes 2 arguments; use a function that takes none or one"),
    ],
)
def test_junk_is_refused_before_anything_runs(junk: Any, text: str) -> None:
    """PlanDefinitionError says what a condition is."""
    started = threading.Event()

    def exec(ctx: Context) -> None:
        try:
            ctx.start(["sh", "-c", "touch started"], cwd=ctx.tmp_path, ready=junk)
        finally:
            if ctx.tmp_path.joinpath("started").exists():
                started.set()

    plan = Plan()
    plan.add_step(GenericStep(exec=exec), name="it")
    with pytest.raises(StepError) as caught:
        plan.execute()
    assert isinstance(caught.value.__cause__, PlanDefinitionError)
    assert text in str(caught.value)
    assert not started.is_set()
    with pytest.raises(PlanDefinitionError):
        condition_of(junk)


def test_a_timeout_is_a_duration() -> None:
    """The error names the argument."""
    assert "ctx.start: timeout: 'soon' is not a duration" in str(
        cause_of(Ready(""), timeout="soon")
    )


def test_a_try_ends_before_the_whole_time_does() -> None:
    """Each try is told how long it may take; that is never more than what is left."""
    condition = Ready("not yet", at=3)
    run(condition, timeout="4s")
    assert all(0.5 <= seconds <= 4 for seconds in condition.seconds)
    assert condition.seconds == sorted(condition.seconds, reverse=True)


def test_a_function_that_blocks_is_stopped_when_the_time_is_over() -> None:
    """The wait ends although the function does not return."""

    def hang() -> None:
        while True:
            time.sleep(0.01)

    begun = time.monotonic()
    error = cause_of(hang, timeout="0.3s")
    assert isinstance(error, TimeoutError)
    assert "the timeout of 0.30s of ctx.start" in str(error)
    assert time.monotonic() - begun < LONGEST


def test_cancelling_the_plan_ends_the_wait() -> None:
    """The step stops at once, and its program is ended."""
    plan = Plan()
    found: list[int] = []

    def exec(ctx: Context) -> None:
        ctx.start(SLEEPS, ready=lambda process: found.append(process.pid), timeout="60s")

    plan.add_step(GenericStep(exec=exec), name="it")
    timer = threading.Timer(0.5, lambda: plan.cancel("enough"))
    timer.start()
    with pytest.raises(PlanCancelledError):
        plan.execute()
    timer.join()
    assert found
    assert not psutil.pid_exists(found[0])


def test_an_error_of_the_plan_ends_the_wait() -> None:
    """A function may raise one, because it is never a reason to ask again."""

    def refuse() -> None:
        raise PlanDefinitionError("never")

    begun = time.monotonic()
    assert str(cause_of(refuse, timeout="60s")) == "never"
    assert time.monotonic() - begun < LONGEST


def test_ctrl_c_ends_the_wait(tmp_path: Any) -> None:
    """A script that waits ends as after any Ctrl-C, and leaves nothing."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pytest_plan import GenericStep, Plan\n"
        "def exec(ctx):\n"
        "    ctx.start(['sleep', '61'], ready=lambda: print('asked', flush=True), timeout='60s')\n"
        "plan = Plan()\n"
        "plan.add_step(GenericStep(exec=exec), name='it')\n"
        "plan.execute()\n"
    )
    with subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        wait_for_child(process.pid)
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert "KeyboardInterrupt" in errors


def wait_for_child(pid: int) -> None:
    """Wait until a process has started a program."""
    deadline = time.monotonic() + LONGEST
    while not psutil.Process(pid).children():
        assert time.monotonic() < deadline
        time.sleep(0.02)
