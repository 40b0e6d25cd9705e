"""Programs that must keep running: which ends fail a step, and which do not."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.results import StepError
from pytest_plan.engine.plan import Plan
from pytest_plan.engine.processes.identity import identify
from pytest_plan.engine.processes.process import Process

LONGEST = 20.0
Exec = Callable[[Context], Any]


def wait_for(done: Callable[[], Any]) -> None:
    """Wait for something that another process does, unknown to the plan."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def ended(process: Process) -> None:
    """Wait until a program has ended, without the plan noticing that."""
    wait_for(lambda: process.status() is not None)


def start(ctx: Context, code: str, **options: Any) -> Process:
    """Start a shell script."""
    return ctx.start(["sh", "-c", code], **options)


def outcome(exec: Exec, **options: Any) -> BaseException | None:
    """Run a step; return the exception that it failed with, or None."""
    plan = Plan()
    plan.add_step(GenericStep(exec=exec), name="it", **options)
    try:
        plan.execute()
    except StepError as error:
        return error.__cause__
    return None


def waits(ctx: Context) -> None:
    """Wait in vain, but not for ever."""
    ctx.wait_until(lambda: False, timeout=LONGEST, every=0.02)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("exit 3", "'sh' exited with status 3 during startup of step 'it'"),
        ("exit 0", "'sh' exited with status 0 during startup of step 'it'"),
        ("sleep 0.2; exit 0", "'sh' exited with status 0 during startup of step 'it'"),
        ("kill -9 $$", "'sh' died of signal 9 during startup of step 'it'"),
    ],
)
def test_a_wait_fails_at_once_when_a_program_has_ended(code: str, text: str) -> None:
    """The error says which program, and how it has ended, also with status 0."""

    def exec(ctx: Context) -> None:
        start(ctx, code)
        waits(ctx)

    error = outcome(exec)
    assert isinstance(error, RuntimeError)
    assert str(error) == text


def test_a_wait_does_not_succeed_when_a_program_has_ended() -> None:
    """Somebody else may have answered."""

    def exec(ctx: Context) -> None:
        ended(start(ctx, "exit 0"))
        ctx.wait_until(lambda: True)

    assert isinstance(outcome(exec), RuntimeError)


def test_a_program_that_leaves_a_daemon_runs_on() -> None:
    """The wait ends with the daemon, not with the program that has left it."""

    def exec(ctx: Context) -> None:
        program = start(ctx, "setsid sleep 60 >/dev/null 2>&1 & exit 0")
        ended(program)
        ctx.wait_until(lambda: True)
        for member in program.members():
            member.send_signal(signal.SIGKILL)
        waits(ctx)

    error = outcome(exec)
    assert isinstance(error, RuntimeError)
    assert "exited with status 0 and left a daemon, which has ended too" in str(error)


def test_a_program_that_has_failed_fails_the_step_when_the_hook_returns() -> None:
    """A hook that never waits is checked, too; status 0 is no failure then."""

    def exec(ctx: Context, code: str) -> None:
        ended(start(ctx, code))

    assert isinstance(outcome(lambda ctx: exec(ctx, "exit 3")), RuntimeError)
    assert isinstance(outcome(lambda ctx: exec(ctx, "kill -9 $$")), RuntimeError)
    assert outcome(lambda ctx: exec(ctx, "exit 0")) is None


def test_every_hook_is_checked_when_it_returns() -> None:
    """A program of `pre_exec` may fail before `post_exec` ends."""
    processes: list[Process] = []
    plan = Plan()

    def pre_exec(ctx: Context) -> None:
        processes.append(start(ctx, "sleep 0.3; exit 3"))
        processes[0].send_signal(signal.SIGSTOP)

    def post_exec(ctx: Context) -> None:
        processes[0].send_signal(signal.SIGCONT)
        ended(processes[0])

    plan.add_step(GenericStep(pre_exec=pre_exec, exec=lambda: None, post_exec=post_exec), name="it")
    with pytest.raises(StepError) as info:
        plan.execute()
    assert info.value.hook == "post_exec"
    assert isinstance(info.value.__cause__, RuntimeError)


class TestMayEnd:
    """Programs that may end."""

    @pytest.mark.parametrize("code", ["exit 0", "exit 3"])
    def test_one_that_is_not_watched(self, code: str) -> None:
        """`watch=False` is for programs that are meant to end."""

        def exec(ctx: Context) -> Any:
            ended(start(ctx, code, watch=False))
            return ctx.wait_until(lambda: True)

        assert outcome(exec) is None

    @pytest.mark.parametrize("code", ["exit 0", "exit 3"])
    def test_one_whose_end_the_step_has_waited_for(self, code: str) -> None:
        """The step knows the status."""

        def exec(ctx: Context) -> Any:
            start(ctx, code).wait()
            return ctx.wait_until(lambda: True)

        assert outcome(exec) is None

    @pytest.mark.parametrize("code", ["exit 0", "exit 3"])
    def test_one_whose_end_the_function_has_waited_for(self, code: str) -> None:
        """`ctx.wait_until` may wait for the end of a program itself."""

        def exec(ctx: Context) -> Any:
            process = start(ctx, code)
            return ctx.wait_until(lambda: process.poll() is not None, every=0.01)

        assert outcome(exec) is None

    def test_one_that_exits_with_0_while_the_step_does_not_wait(self) -> None:
        """`ctx.sleep` and `ctx.run` are no `ctx.wait_until`."""

        def exec(ctx: Context) -> Any:
            ended(start(ctx, "exit 0"))
            ctx.sleep(0)
            ended(start(ctx, "exit 0"))
            ctx.run(["true"])
            return ctx.wait_until(lambda: True)

        assert outcome(exec) is None

    def test_one_of_an_earlier_attempt(self) -> None:
        """It was ended before the next attempt began."""

        def exec(ctx: Context) -> Any:
            start(ctx, "sleep 60")
            if ctx.attempt == 1:
                raise ValueError
            return ctx.wait_until(lambda: True)

        assert outcome(exec, retries=1, retry_wait=0) is None

    def test_one_that_a_cleanup_has_ended(self) -> None:
        """A cleanup waits for the end of its program, by whatever means."""

        def stop(ctx: Context, process: Process, file: Path) -> None:
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: process.status() is not None)
            ctx.wait_until(file.exists)

        def exec(ctx: Context) -> Process:
            file = ctx.tmp_path / "file"
            file.touch()
            process = start(ctx, "sleep 60")
            ctx.defer(stop, ctx, process, file)
            return process

        def cleanup(ctx: Context, value: Process) -> None:
            stop(ctx, value, ctx.tmp_path / "file")

        plan = Plan()
        plan.add_step(GenericStep(exec=exec, cleanup=cleanup), name="it")
        plan.execute()

    def test_one_that_the_stop_of_its_step_has_ended(self) -> None:
        """A step that was cancelled as its last hook returned is complete."""
        plan = Plan()

        def exec(ctx: Context) -> str:
            process = start(ctx, "sleep 60")
            plan.cancel("enough")
            ended(process)
            return "complete"

        plan.add_step(GenericStep(exec=exec), name="it")
        with pytest.raises(Exception, match="enough") as info:
            plan.execute()
        assert info.value.result.steps["it"].outcome == "succeeded"  # type: ignore[attr-defined]


class TestNeeds:
    """Programs of the steps that a step needs."""

    def run(self, code: str, exec: Exec, *, between: bool = False) -> BaseException | None:
        """Start a shell script in one step, and run `exec` in one that needs it."""
        plan, processes = Plan(), []

        def first(ctx: Context) -> None:
            processes.append(start(ctx, code))

        plan.add_step(GenericStep(exec=first), name="first")
        if between:
            plan.add_step(GenericStep(exec=lambda: None), name="second", needs=["first"])
        plan.add_step(GenericStep(exec=exec), name="last", needs=["second" if between else "first"])
        try:
            plan.execute()
        except StepError as error:
            return error.__cause__
        return None

    CRASH = "sleep 0.2; echo no space left; exit 9"

    @pytest.mark.parametrize("between", [False, True])
    def test_a_wait_fails_when_one_of_them_has_failed(self, between: bool) -> None:
        """The error names the step, also one that is needed indirectly, and has its last lines."""
        error = self.run(self.CRASH, waits, between=between)
        assert isinstance(error, RuntimeError)
        text = "'sh' exited with status 9; it belongs to step 'first', which step 'last' needs"
        assert str(error) == text
        assert "no space left" in error.__notes__[0]

    def test_they_are_looked_at_again_when_the_hook_returns(self) -> None:
        """A step that has waited must not succeed on the ruins of another."""

        def exec(ctx: Context) -> None:
            ctx.wait_until(lambda: True)
            time.sleep(0.5)

        assert isinstance(self.run(self.CRASH, exec), RuntimeError)

    def test_one_that_exits_with_0_is_no_failure(self) -> None:
        """Its own step did not wait for it."""
        assert self.run("exit 0", lambda ctx: ctx.wait_until(lambda: True)) is None

    def test_a_step_that_is_not_needed_does_not_matter(self) -> None:
        """Only programs of needed steps count."""
        plan = Plan(continue_on_error=True)
        plan.add_step(GenericStep(exec=lambda ctx: start(ctx, "sleep 0.2; exit 3")), name="first")

        def last(ctx: Context) -> None:
            time.sleep(0.4)
            ctx.wait_until(lambda: True)

        plan.add_step(GenericStep(exec=last), name="last", needs=())
        assert plan.execute().steps["last"].outcome == "succeeded"


class TestBlocking:
    """A function of `wait_until` that does not return."""

    def test_it_is_stopped_when_its_time_is_over(self) -> None:
        """The hook is stopped as one that exceeds its own time limit."""

        def hang() -> None:
            while True:
                time.sleep(0.01)

        def exec(ctx: Context) -> None:
            ctx.wait_until(hang, timeout=0.2)

        begun = time.monotonic()
        plan = Plan()
        plan.add_step(GenericStep(exec=exec), name="it")
        with pytest.raises(TimeoutError, match=r"the timeout of 0.20s of ctx.wait_until"):
            plan.execute()
        assert time.monotonic() - begun < LONGEST

    def test_it_is_abandoned_if_it_cannot_be_stopped(self) -> None:
        """A wait in C code ends for the plan after some seconds."""
        plan = Plan()
        fd_in, fd_out = os.pipe()

        def exec(ctx: Context) -> None:
            ctx.wait_until(lambda: os.read(fd_in, 1), timeout=0.2)

        plan.add_step(GenericStep(exec=exec), name="it")
        with pytest.raises(TimeoutError) as info:
            plan.execute()
        assert "abandoned" in str(info.value.__notes__)
        os.write(fd_out, b"x")
        os.close(fd_out)
        wait_for(lambda: not any("plan-" in one.name for one in threading.enumerate()))
        os.close(fd_in)

    def test_a_later_wait_has_its_own_time(self) -> None:
        """The limit of one wait does not concern the code after it."""

        def exec(ctx: Context) -> str:
            ctx.wait_until(lambda: True, timeout=0)
            time.sleep(1.5)
            return ctx.wait_until(lambda: "ready", timeout=0)

        assert outcome(exec) is None


DAEMON = """
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
os.closerange(0, 3)
file, seconds, status = sys.argv[1:]
with open(file + ".new", "w") as new:
    new.write(str(os.getpid()))
os.rename(file + ".new", file)
end = time.monotonic() + float(seconds)
while time.monotonic() < end and not os.path.exists(file + ".end"):
    time.sleep(0.01)
os._exit(int(status))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it would take too long")
class TestDaemons:
    """Daemons that programs of `ctx.run` have left running."""

    LONG = 60.0

    def leave(self, ctx: Context, file: Path, status: int = 9) -> int:
        """Let a program leave a daemon, which runs until `end`; return its pid."""
        ctx.run([sys.executable, "-c", DAEMON, str(file), str(self.LONG), str(status)])
        wait_for(file.exists)
        return int(file.read_text())

    def see(self, ctx: Context) -> None:
        """Let the plan see that the daemons are running."""
        ctx.wait_until(lambda: True)

    def end(self, file: Path) -> None:
        """Let the daemon end that was left with this file."""
        file.with_name(f"{file.name}.end").touch()

    @pytest.mark.parametrize("status", [0, 9])
    def test_a_wait_fails_at_once_when_one_has_ended(self, tmp_path: Path, status: int) -> None:
        """The error names its program, and says what to do if it may end."""

        def exec(ctx: Context) -> None:
            self.leave(ctx, tmp_path / "pid", status=status)
            self.see(ctx)
            self.end(tmp_path / "pid")
            waits(ctx)

        begun = time.monotonic()
        error = outcome(exec)
        assert isinstance(error, RuntimeError)
        name = Path(sys.executable).name
        assert str(error).startswith(
            f"{name!r} exited with status 0 and left a daemon, which has ended too, "
            "during startup of step 'it'; if it may end, use ctx.start(..., watch=False)"
        )
        assert time.monotonic() - begun < LONGEST

    def test_the_step_fails_when_it_has_ended_after_the_wait(self, tmp_path: Path) -> None:
        """A step that has waited for the server must not succeed without it."""

        def exec(ctx: Context) -> None:
            who = identify(self.leave(ctx, tmp_path / "pid"))
            ctx.wait_until(lambda: True)
            who.send_signal(signal.SIGKILL)
            wait_for(lambda: not who.is_alive())

        assert isinstance(outcome(exec), RuntimeError)

    def test_a_step_that_needs_it_fails(self, tmp_path: Path) -> None:
        """The error names the step that has started the daemon."""
        plan = Plan()

        def first(ctx: Context) -> None:
            self.leave(ctx, tmp_path / "pid")

        def last(ctx: Context) -> None:
            identify(int((tmp_path / "pid").read_text())).send_signal(signal.SIGKILL)
            waits(ctx)

        plan.add_step(GenericStep(exec=first), name="first")
        plan.add_step(GenericStep(exec=last), name="last", needs=["first"])
        with pytest.raises(StepError) as info:
            plan.execute()
        assert "it belongs to step 'first', which step 'last' needs" in str(info.value)

    def test_one_that_runs_on_is_no_failure(self, tmp_path: Path) -> None:
        """So is one beside it, and one that has a child."""

        def exec(ctx: Context) -> Any:
            for number in range(3):
                self.leave(ctx, tmp_path / str(number))
                ctx.wait_until(lambda: True)
            return ctx.sleep(0.2)

        assert outcome(exec) is None

    def test_each_one_counts(self, tmp_path: Path) -> None:
        """Others that run on do not hide the end of one of them."""

        def exec(ctx: Context) -> None:
            for number in range(3):
                self.leave(ctx, tmp_path / str(number))
            self.see(ctx)
            self.end(tmp_path / "1")
            waits(ctx)

        assert isinstance(outcome(exec), RuntimeError)

    def test_one_that_forks_again_later_runs_on(self, tmp_path: Path) -> None:
        """A daemon may restart itself; its successor has the same marks."""
        code = 'touch "$0.ready"; until [ -e "$0.go" ]; do sleep 0.01; done; sleep 60 & exit 0'
        argv = ["setsid", "--fork", "sh", "-c", code, str(tmp_path / "file")]

        def exec(ctx: Context) -> Any:
            ctx.run(argv)
            wait_for((tmp_path / "file.ready").exists)
            (tmp_path / "file.go").touch()
            end = time.monotonic() + 0.5
            return ctx.wait_until(lambda: time.monotonic() > end, every=0.05)

        assert outcome(exec) is None

    def test_one_that_another_program_has_stopped_may_end(self, tmp_path: Path) -> None:
        """A server is often started, changed and stopped before it is started again."""

        def exec(ctx: Context) -> Any:
            who = identify(self.leave(ctx, tmp_path / "pid"))
            ctx.run(["sh", "-c", 'kill $0; while [ -d "/proc/$0" ]; do sleep 0.01; done',
                     str(who.pid)])  # fmt: skip
            assert not who.is_alive()
            self.leave(ctx, tmp_path / "other")
            return ctx.wait_until(lambda: True)

        assert outcome(exec) is None

    def test_the_rest_of_a_pipe_is_none(self, tmp_path: Path) -> None:
        """Processes in the session of the program may end a moment after it."""

        def exec(ctx: Context) -> Any:
            ctx.run(["sh", "-c", "sleep 0.3 & exit 0"])
            end = time.monotonic() + 0.6
            return ctx.wait_until(lambda: time.monotonic() > end, every=0.05)

        assert outcome(exec) is None

    def test_a_server_in_the_background_of_a_shell_is_one(self) -> None:
        """It has outlived the program for a second."""

        def exec(ctx: Context) -> None:
            ctx.run(["sh", "-c", "sleep 1.5 >/dev/null 2>&1 & exit 0"])
            waits(ctx)

        error = outcome(exec)
        assert isinstance(error, RuntimeError)
        assert "left a daemon, which has ended too" in str(error)

    def test_a_step_that_never_waits_does_not_rely_on_it(self, tmp_path: Path) -> None:
        """Some programs leave a helper that ends by itself."""

        def exec(ctx: Context) -> None:
            who = identify(self.leave(ctx, tmp_path / "pid"))
            self.end(tmp_path / "pid")
            wait_for(lambda: not who.is_alive())

        assert outcome(exec) is None

    def test_one_of_an_earlier_attempt_may_end(self, tmp_path: Path) -> None:
        """It was ended before the next attempt began."""

        def exec(ctx: Context) -> Any:
            self.leave(ctx, tmp_path / str(ctx.attempt))
            if ctx.attempt == 1:
                raise ValueError
            return ctx.wait_until(lambda: True)

        assert outcome(exec, retries=1, retry_wait=0) is None

    def test_a_program_that_is_not_watched_may_leave_one_that_ends(self, tmp_path: Path) -> None:
        """This is the advice of the error."""

        def exec(ctx: Context) -> Any:
            argv = [sys.executable, "-c", DAEMON, str(tmp_path / "pid"), "0.1", "0"]
            ctx.start(argv, watch=False).wait()
            wait_for((tmp_path / "pid").exists)
            who = identify(int((tmp_path / "pid").read_text()))
            return ctx.wait_until(lambda: not who.is_alive())

        assert outcome(exec) is None


class TestEnded:
    """Processes that cleanup has found running after the programs of `ctx.run`."""

    CODE = "setsid sleep 60 >/dev/null 2>&1 & exit 0"

    def cleaned(self, exec: Exec, **options: Any) -> tuple[str, ...]:
        """Run a step; return what its cleanup has ended."""
        plan = Plan()
        plan.add_step(GenericStep(exec=exec), name="it", **options)
        return plan.execute().steps["it"].cleanup.ended

    def test_the_result_lists_them(self) -> None:
        """Each with its program and pid."""
        (ended,) = self.cleaned(lambda ctx: ctx.run(["sh", "-c", self.CODE]).stdout)
        assert ended.startswith("'sleep' (pid ")

    def test_one_that_cleanup_has_stopped_is_not_listed(self) -> None:
        """Even if it takes a moment to end."""

        def exec(ctx: Context) -> None:
            code = "trap 'sleep 0.05; exit' TERM; echo $$; while :; do sleep 0.01; done"
            ctx.run(["sh", "-c", 'setsid sh -c "$0" >pid &', code], cwd=ctx.tmp_path)
            wait_for((ctx.tmp_path / "pid").exists)
            wait_for((ctx.tmp_path / "pid").read_text)
            ctx.defer(os.kill, int((ctx.tmp_path / "pid").read_text()), signal.SIGTERM)

        assert self.cleaned(exec) == ()

    def test_those_of_an_earlier_attempt_are_not_listed(self) -> None:
        """They did not outlive the cleanup of the step."""

        def exec(ctx: Context) -> None:
            if ctx.attempt == 1:
                ctx.run(["sh", "-c", self.CODE])
                raise ValueError

        assert self.cleaned(exec, retries=1, retry_wait=0) == ()
