"""The Context that a running hook gets as `ctx`."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import FunctionStep, GenericStep
from pytest_plan.engine.model.errors import PlanDefinitionError, PlanError
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import (
    PlanCancelledError,
    PlanTimeoutError,
    StepError,
    StepTimeoutError,
)
from pytest_plan.engine.model.secret import Secret
from pytest_plan.engine.plan import Plan, begin
from pytest_plan.engine.processes.process import Process
from pytest_plan.engine.shared.state import State
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Background, Calls, execute


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Objects are freed only when nothing refers to them any more."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def plan(clock: FakeClock) -> Plan:
    """An empty plan that needs no real time."""
    return Plan(clock=clock)


def run_step(plan: Plan, exec: Callable[[Context], Any], **options: Any) -> Any:
    """Run the one step `it`; return the value of `exec`, or raise the error of the plan."""
    plan.add_step(GenericStep(exec=exec), name="it", **options)
    with plan.provisioned() as state:
        return state.get("it")


def cause_of(plan: Plan, exec: Callable[[Context], Any], **options: Any) -> BaseException:
    """Run one step that fails; return the exception of the hook."""
    with pytest.raises(StepError) as caught:
        run_step(plan, exec, **options)
    assert caught.value.__cause__ is not None
    return caught.value.__cause__


def environment_of(method: str, **options: Any) -> Callable[[Context], dict[str, str]]:
    """Return a hook that returns the environment variables of a program."""

    def exec(ctx: Context) -> dict[str, str]:
        program = ["/bin/sh", "-c", f"/usr/bin/env -0 >{ctx.tmp_path}/variables"]
        started = getattr(ctx, method)(program, **options)
        if method == "start":
            started.wait()
        lines = (ctx.tmp_path / "variables").read_text().split("\0")
        names = {name: value for name, _, value in (line.partition("=") for line in lines if line)}
        return {name: value for name, value in names.items() if name not in ("PWD", "_", "SHLVL")}

    return exec


class TestTime:
    """`deadline`, `remaining`, `sleep`, `wait_until` and `check`."""

    def test_without_limits_there_is_no_deadline(self, plan: Plan) -> None:
        """`deadline` and `remaining()` are None."""
        assert run_step(plan, lambda ctx: (ctx.deadline, ctx.remaining())) == (None, None)

    @pytest.mark.parametrize(
        ("limit", "timeout", "nearest"),
        [(10, None, 10), (None, 20, 20), (10, 20, 10), (20, 10, 10)],
    )
    def test_the_deadline_is_the_nearer_of_step_and_plan(
        self, clock: FakeClock, limit: float | None, timeout: float | None, nearest: float
    ) -> None:
        """`remaining()` counts down to it."""
        plan = Plan(limit=limit, clock=clock)

        def exec(ctx: Context) -> Any:
            first = ctx.remaining()
            ctx.sleep(4)
            return ctx.deadline, first, ctx.remaining()

        deadline, first, second = run_step(plan, exec, timeout=timeout)
        assert deadline == pytest.approx(1000 + nearest, abs=0.01)
        assert (first, second) == (pytest.approx(nearest), pytest.approx(nearest - 4, abs=0.01))

    def test_cleanup_has_a_deadline_of_its_own(self, clock: FakeClock) -> None:
        """It is the `cleanup_timeout`, not the plan's limit."""
        seen: list[float | None] = []
        plan = Plan(limit=5, clock=clock)
        plan.add_step(
            GenericStep(cleanup=lambda ctx: seen.append(ctx.remaining())), cleanup_timeout=30
        )
        plan.execute()
        assert seen == [pytest.approx(30)]

    def test_sleep_lets_exactly_that_time_pass(self, plan: Plan, clock: FakeClock) -> None:
        """`sleep` accepts every form of a duration."""
        begun = clock.now()

        def exec(ctx: Context) -> None:
            for duration in ("1m 30s", 0.5, 0):
                ctx.sleep(duration)

        run_step(plan, exec)
        assert clock.now() - begun == pytest.approx(90.5, abs=0.01)

    @pytest.mark.parametrize("duration", ["soon", -1, None, True])
    def test_sleep_refuses_what_is_no_duration(self, plan: Plan, duration: Any) -> None:
        """PlanDefinitionError names `ctx.sleep`."""
        error = cause_of(plan, lambda ctx: ctx.sleep(duration))
        assert isinstance(error, PlanDefinitionError)
        assert "ctx.sleep" in str(error)

    def test_check_passes_while_nothing_stops_the_step(self, plan: Plan) -> None:
        """`cancelled` is false as well."""

        def exec(ctx: Context) -> bool:
            ctx.check()
            return ctx.cancelled

        assert run_step(plan, exec) is False

    @pytest.mark.parametrize(
        ("ending", "error"),
        [
            ("cancel", PlanCancelledError),
            ("limit", PlanTimeoutError),
            ("timeout", StepTimeoutError),
        ],
    )
    def test_whatever_waits_raises_why_the_step_must_stop(
        self, clock: FakeClock, ending: str, error: type[PlanError]
    ) -> None:
        """`sleep`, `check`, `wait_until`, `run` and `start` raise; `cancelled` is true."""
        plan = Plan(limit=10 if ending == "limit" else None, clock=clock)
        raised: list[type[BaseException]] = []

        def exec(ctx: Context) -> None:
            if ending == "cancel":
                plan.cancel()
            for wait in (
                lambda: ctx.sleep(60),
                ctx.check,
                lambda: ctx.wait_until(lambda: False),
                lambda: ctx.run(["true"]),
                lambda: ctx.start(["true"]),
            ):
                try:
                    wait()
                except PlanError as stop:
                    raised.append(type(stop))
            assert ctx.cancelled

        plan.add_step(GenericStep(exec=exec), timeout=5 if ending == "timeout" else None)
        _, outcome = execute(plan)
        assert isinstance(outcome, error)
        assert raised == [error] * 5


class TestWaitUntil:
    """`ctx.wait_until`."""

    def test_it_returns_the_first_true_value(self, plan: Plan, clock: FakeClock) -> None:
        """It pauses after each false value."""
        begun = clock.now()
        values = iter([None, 0, "", "ready", "too far"])
        assert run_step(plan, lambda ctx: ctx.wait_until(lambda: next(values))) == "ready"
        assert clock.now() - begun == pytest.approx(3 * 0.2, abs=0.01)

    def test_an_exception_is_not_yet(self, plan: Plan) -> None:
        """After an exception `fn` is called again."""
        answers: list[Any] = [ConnectionError(), KeyError(), "ready"]

        def ask() -> Any:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        assert run_step(plan, lambda ctx: ctx.wait_until(ask)) == "ready"

    @pytest.mark.usefixtures("no_collection")
    def test_an_exception_and_what_it_refers_to_are_freed(self, plan: Plan) -> None:
        """Otherwise the garbage collector would later warn of the socket of a failed request."""
        raised: list[weakref.ref[BaseException]] = []

        class RefusedError(Exception):
            """Built-in exceptions cannot be referred to weakly."""

        def ask() -> bool:
            if raised:
                return raised[0]() is None
            error = RefusedError()
            raised.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        assert run_step(plan, lambda ctx: ctx.wait_until(ask, timeout=1)) is True

    def test_it_gives_up_at_its_timeout(self, plan: Plan, clock: FakeClock) -> None:
        """TimeoutError has the last exception as its cause and in its text."""

        def ask() -> bool:
            raise ConnectionError("refused")

        begun = clock.now()
        error = cause_of(plan, lambda ctx: ctx.wait_until(ask, timeout="5s"))
        assert isinstance(error, TimeoutError)
        assert "refused" in str(error)
        assert isinstance(error.__cause__, ConnectionError)
        assert clock.now() - begun == pytest.approx(5, abs=0.25)

    def test_a_long_pause_does_not_outlast_the_timeout(self, plan: Plan, clock: FakeClock) -> None:
        """The last pause is cut short."""
        begun = clock.now()
        error = cause_of(plan, lambda ctx: ctx.wait_until(lambda: False, timeout=1, every=10))
        assert isinstance(error, TimeoutError)
        assert clock.now() - begun == pytest.approx(1, abs=0.01)

    def test_it_asks_at_least_once(self, plan: Plan) -> None:
        """`fn` is called even with a timeout of 0."""
        assert run_step(plan, lambda ctx: ctx.wait_until(lambda: "at once", timeout=0)) == "at once"

    def test_it_pauses_as_long_as_it_is_told(self, plan: Plan, clock: FakeClock) -> None:
        """`every` is the time between two calls."""
        times: list[float] = []

        def ask() -> bool:
            times.append(clock.now())
            return len(times) == 3

        run_step(plan, lambda ctx: ctx.wait_until(ask, every="2s"))
        assert [time - times[0] for time in times] == pytest.approx([0, 2, 4], abs=0.01)

    def test_an_error_of_the_plan_is_no_not_yet(self, plan: Plan) -> None:
        """A PlanError, such as that of a bad duration, is raised at once."""
        error = cause_of(plan, lambda ctx: ctx.wait_until(lambda: ctx.sleep("soon")))
        assert isinstance(error, PlanDefinitionError)

    def test_a_base_exception_passes_through(self, plan: Plan) -> None:
        """KeyboardInterrupt does not count as "not yet"."""

        def ask() -> bool:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_step(plan, lambda ctx: ctx.wait_until(ask))

    def test_it_gives_up_when_a_program_of_the_hook_has_failed(self, plan: Plan) -> None:
        """It does not wait for a server that has died; the error names the program."""

        def exec(ctx: Context) -> None:
            ctx.start([sys.executable, "-c", "import sys; sys.exit(3)"])
            ctx.wait_until(lambda: time.sleep(0.01), every=0)

        error = cause_of(plan, exec)
        assert isinstance(error, RuntimeError)
        assert "exited with status 3 during startup of step" in str(error)

    def test_it_goes_on_when_a_program_of_the_hook_has_succeeded(self, plan: Plan) -> None:
        """A program may exit with 0 because it continues in the background."""
        values = iter([False, True])

        def exec(ctx: Context) -> Any:
            ctx.start(["true"]).wait()
            return ctx.wait_until(lambda: next(values))

        assert run_step(plan, exec) is True


class TestRun:
    """`ctx.run`."""

    def test_it_returns_status_and_output(self, plan: Plan) -> None:
        """Standard output and standard error are returned separately, as text."""
        script = "import sys; print('out'); print('err', file=sys.stderr)"
        done = run_step(plan, lambda ctx: ctx.run([sys.executable, "-c", script]))
        assert isinstance(done, subprocess.CompletedProcess)
        assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")
        assert done.args == [sys.executable, "-c", script]

    def test_a_failure_is_an_error_with_the_output(self, plan: Plan) -> None:
        """It raises CalledProcessError, as subprocess.run does."""
        error = cause_of(plan, lambda ctx: ctx.run(["sh", "-c", "echo out; exit 3"]))
        assert isinstance(error, subprocess.CalledProcessError)
        assert (error.returncode, error.stdout) == (3, "out\n")

    def test_a_failure_can_be_asked_for(self, plan: Plan) -> None:
        """With `check=False` the exit status is returned."""
        done = run_step(plan, lambda ctx: ctx.run(["sh", "-c", "exit 3"], check=False))
        assert done.returncode == 3

    def test_it_takes_input_environment_and_folder(self, plan: Plan, tmp_path: Path) -> None:
        """`input`, `env` and `cwd` work as in subprocess.run."""
        script = "read line; echo $line $WORD $PWD"
        done = run_step(
            plan,
            lambda ctx: ctx.run(
                ["/bin/sh", "-c", script], input="hello\n", env={"WORD": "w"}, cwd=tmp_path
            ),
        )
        assert done.stdout == f"hello w {tmp_path}\n"

    def test_its_input_is_empty_otherwise(self, plan: Plan) -> None:
        """A program cannot wait for input from the terminal."""
        assert run_step(plan, lambda ctx: ctx.run(["cat"])).stdout == ""

    def test_its_output_may_be_of_any_size_and_kind(self, plan: Plan) -> None:
        """It may be larger than a pipe holds, and invalid UTF-8."""
        script = "import sys; sys.stdout.buffer.write(b'\\xff' + b'x' * 300_000)"
        done = run_step(plan, lambda ctx: ctx.run([sys.executable, "-c", script]))
        assert done.stdout == "\N{REPLACEMENT CHARACTER}" + "x" * 300_000

    def test_it_ends_at_its_own_timeout(self) -> None:
        """TimeoutExpired is raised, and the program is gone."""
        plan, pids = Plan(), []

        def exec(ctx: Context) -> None:
            try:
                ctx.run(["sh", "-c", "echo $$; exec sleep 60"], timeout=0.2)
            except subprocess.TimeoutExpired:
                pids.append(int((ctx.artifacts / "log.txt").read_text().split()[-1]))
                raise

        assert isinstance(cause_of(plan, exec), subprocess.TimeoutExpired)
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)

    @pytest.mark.parametrize("argv", ["echo hello", b"echo", [], ""])
    @pytest.mark.parametrize("method", ["run", "start"])
    def test_a_program_is_a_list(self, plan: Plan, method: str, argv: Any) -> None:
        """A shell string raises TypeError."""
        error = cause_of(plan, lambda ctx: getattr(ctx, method)(argv))
        assert isinstance(error, TypeError)
        assert "['prog', 'argument']" in str(error)

    @pytest.mark.parametrize("method", ["run", "start"])
    def test_a_program_that_is_missing_is_an_oserror(self, plan: Plan, method: str) -> None:
        """The error names the program."""
        error = cause_of(plan, lambda ctx: getattr(ctx, method)(["no-such-program"]))
        assert isinstance(error, FileNotFoundError)
        assert "no-such-program" in str(error)

    def test_arguments_may_be_paths(self, plan: Plan, tmp_path: Path) -> None:
        """An argument may be anything that os.fspath accepts."""
        run_step(plan, lambda ctx: ctx.run(["touch", tmp_path / "file"]))
        assert (tmp_path / "file").exists()

    def test_nothing_of_its_tree_outlives_a_timeout(self, tmp_path: Path) -> None:
        """A child that ignores SIGTERM and a grandchild in another session are ended."""
        tree = (
            "import os, signal, subprocess, sys, time\n"
            "deaf = 'import signal, time; signal.signal(15, signal.SIG_IGN);'"
            "       'print(\"deaf\", flush=True); time.sleep(60)'\n"
            "children = [subprocess.Popen([sys.executable, '-c', deaf], stdout=subprocess.PIPE,\n"
            "            start_new_session=own) for own in (False, True)]\n"
            "for child in children: child.stdout.readline()\n"
            f"with open({str(tmp_path / 'pids')!r}, 'w') as file:\n"
            "    print(*[child.pid for child in children], file=file)\n"
            "time.sleep(60)\n"
        )
        plan = Plan()
        plan.add_step(GenericStep(exec=lambda ctx: ctx.run([sys.executable, "-c", tree])),
                      name="it", timeout=1.0)  # fmt: skip
        _, error = execute(plan)
        assert isinstance(error, StepTimeoutError)
        for pid in (tmp_path / "pids").read_text().split():
            assert not _runs(int(pid)), f"{pid} still runs"

    @pytest.mark.parametrize("first", ["deferred", "run"])
    def test_daemons_of_a_deferred_run_are_ended(
        self, plan: Plan, first: str, tmp_path: Path
    ) -> None:
        """It does not matter whether other programs of the step have been cleaned up by then."""
        file = tmp_path / "pid"
        daemon = ["sh", "-c", f"setsid env -i sleep 60 >/dev/null 2>&1 & echo $! >{file}"]

        def exec(ctx: Context) -> None:
            if first == "run":
                ctx.run(["true"])
            ctx.defer(ctx.run, daemon)
            ctx.run(["true"])

        run_step(plan, exec)
        assert not _runs(int(file.read_text()))

    @pytest.mark.skipif(sys.platform != "linux", reason="needs the limit on file locks as a mark")
    def test_the_log_tells_which_daemons_were_ended(self, plan: Plan) -> None:
        """What is found alive after the step's `cleanup` hook is ended, and said."""
        logs: list[Path] = []
        daemon = ["sh", "-c", "setsid env -i sleep 60 >/dev/null 2>&1 &"]

        def exec(ctx: Context) -> None:
            ctx.run(daemon)
            logs.append(ctx.artifacts / "log.txt")

        plan.add_step(GenericStep(exec=exec), name="it")
        with plan.provisioned():
            before = logs[0].read_text()
            log = logs[0].open()
        with log:
            said = log.read().removeprefix(before)
        assert re.fullmatch(r"ending processes that were left running: '\w+' \(pid \d+\)\n", said)


def _runs(pid: int) -> bool:
    """Return whether a process runs; kill it if it does, so that it does not stay."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    if state not in "ZX":
        os.kill(pid, signal.SIGKILL)
        return True
    return False


class TestStart:
    """`ctx.start`."""

    def test_the_program_runs_until_cleanup(self, plan: Plan) -> None:
        """Cleanup ends it with SIGTERM."""
        plan.add_step(GenericStep(exec=lambda ctx: ctx.start(["sleep", "60"])), name="it")
        with plan.provisioned() as state:
            process: Process = state["it"]
            assert process.poll() is None
            assert process.returncode is None
        assert process.returncode == -signal.SIGTERM

    def test_it_is_asked_by_the_signal_of_its_choice(self, plan: Plan) -> None:
        """`stop_signal` is sent in place of SIGTERM."""
        plan.add_step(
            GenericStep(exec=lambda ctx: ctx.start(["sleep", "60"], stop_signal=signal.SIGINT)),
            name="it",
        )
        with plan.provisioned() as state:
            process: Process = state["it"]
        assert process.returncode == -signal.SIGINT

    def test_its_output_goes_to_the_log(self, plan: Plan) -> None:
        """It follows the line that shows the command."""

        def exec(ctx: Context) -> str:
            ctx.start(["sh", "-c", "echo out; echo err >&2"]).wait()
            return (ctx.artifacts / "log.txt").read_text()

        assert run_step(plan, exec) == "$ sh -c 'echo out; echo err >&2' &\nout\nerr\n"

    def test_it_is_ended_when_the_step_fails(self, plan: Plan) -> None:
        """A program does not outlive a failed step."""
        processes: list[Process] = []

        def exec(ctx: Context) -> None:
            processes.append(ctx.start(["sleep", "60"]))
            raise ValueError

        assert isinstance(cause_of(plan, exec), ValueError)
        assert processes[0].returncode == -signal.SIGTERM

    def test_it_is_ended_before_the_next_attempt(self, plan: Plan) -> None:
        """Otherwise the next server could not bind the port."""
        processes: list[Process] = []

        def exec(ctx: Context) -> Any:
            assert all(process.poll() is not None for process in processes)
            processes.append(ctx.start(["sleep", "60"]))
            if ctx.attempt == 1:
                raise ValueError

        plan.add_step(FunctionStep(exec=exec), retries=1, retry_wait=0).execute()
        assert len(processes) == 2

    def test_variables_of_setenv_are_seen_by_programs_started_later(self, plan: Plan) -> None:
        """Programs get the same variables as steps that start later."""

        def exec(ctx: Context) -> str:
            ctx.setenv("PLAN_TEST_WORD", "word")
            return str(ctx.run(["sh", "-c", "echo $PLAN_TEST_WORD"]).stdout)

        assert run_step(plan, exec) == "word\n"

    @pytest.mark.parametrize("method", ["run", "start"])
    def test_env_is_merged_over_the_environment(
        self, plan: Plan, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        """A value of None removes a variable, even one that does not exist."""
        monkeypatch.setenv("PLAN_TEST_KEPT", "kept")
        monkeypatch.setenv("PLAN_TEST_CHANGED", "before")
        monkeypatch.setenv("PLAN_TEST_REMOVED", "before")
        env = {"PLAN_TEST_CHANGED": "after", "PLAN_TEST_REMOVED": None, "PLAN_TEST_NO": None}
        seen = run_step(plan, environment_of(method, env=env))
        assert {name: seen.get(name) for name in (*env, "PLAN_TEST_KEPT")} == {
            **env, "PLAN_TEST_KEPT": "kept",
        }  # fmt: skip
        assert "PLAN_TEST_REMOVED" not in seen

    @pytest.mark.parametrize("method", ["run", "start"])
    @pytest.mark.parametrize("env", [None, {}, {"ONLY": "this", "NOT": None}])
    def test_a_clean_environment_begins_from_nothing(
        self, plan: Plan, method: str, env: dict[str, str | None] | None
    ) -> None:
        """Only the cookie of the process tree is added to `env`."""
        seen = run_step(plan, environment_of(method, env=env, clean_env=True))
        del seen["PYTEST_PLAN_COOKIE"]
        assert seen == ({"ONLY": "this"} if env else {})

    @pytest.mark.skipif(os.getuid() != 0, reason="only root starts programs as somebody else")
    def test_it_can_run_as_another_user_below_tmp_path(self, plan: Plan) -> None:
        """A server that refuses root can reach a folder below `tmp_path`."""

        def exec(ctx: Context) -> str:
            home = ctx.tmp_path / "home"
            home.mkdir()
            os.chown(home, 65534, 65534)
            script = f"id -un; touch {home}/made; ls {ctx.tmp_path} >/dev/null 2>&1 || echo no list"
            return str(ctx.run(["sh", "-c", script], user="nobody", cwd="/").stdout)

        assert run_step(plan, exec) == "nobody\nno list\n"


class TestDefer:
    """`ctx.defer`."""

    @pytest.mark.parametrize("junk", [None, "rm", 7])
    def test_it_takes_a_function(self, plan: Plan, junk: Any) -> None:
        """TypeError is raised by `defer`, not at cleanup."""
        error = cause_of(plan, lambda ctx: ctx.defer(junk))
        assert isinstance(error, TypeError)
        assert "ctx.defer" in str(error)

    def test_it_gives_arguments_by_position_and_name(self, plan: Plan) -> None:
        """`fn` gets all arguments of `defer`."""
        got: list[Any] = []

        def undo(*args: Any, **kwargs: Any) -> None:
            got.append((args, kwargs))

        run_step(plan, lambda ctx: ctx.defer(undo, 1, two=2))
        assert got == [((1,), {"two": 2})]

    def test_after_the_run_it_is_refused(self, plan: Plan, calls: Calls) -> None:
        """PlanError is raised, and the call is made at once, because nothing else would make it."""
        kept: list[Context] = []
        plan.add_step(GenericStep(exec=lambda ctx: kept.append(ctx)), name="db")
        plan.add_step(
            GenericStep(exec=lambda ctx: kept.append(ctx), cleanup=lambda: None), name="web"
        )
        plan.execute()
        for ctx, name in zip(kept, ("db", "web"), strict=True):
            with pytest.raises(PlanError, match=f"'{name}' has been cleaned up"):
                ctx.defer(calls.note, name)
        assert calls == ["db", "web"]

    def test_in_the_body_it_is_accepted(self, plan: Plan, calls: Calls) -> None:
        """A thread that a step has started may defer calls until the step is cleaned up."""
        kept: list[Context] = []
        with plan.add_step(GenericStep(exec=lambda ctx: kept.append(ctx))).provisioned():
            kept[0].defer(calls.note, "undo")
            assert calls == []
        assert calls == ["undo"]

    def test_after_the_cleanup_of_its_step_it_is_refused(self, plan: Plan, calls: Calls) -> None:
        """The run is still cleaning up another step."""
        kept: list[Context] = []

        def late() -> None:
            with pytest.raises(PlanError, match="'web' has been cleaned up"):
                kept[0].defer(calls.note, "late")

        plan.add_step(GenericStep(cleanup=late), name="db")
        plan.add_step(GenericStep(exec=lambda ctx: kept.append(ctx)), name="web")
        plan.execute()
        assert calls == ["late"]

    def test_every_call_is_made_although_cleanup_is_ending(self, calls: Calls) -> None:
        """The call is made by cleanup, or by `defer` itself if that raises PlanError."""
        for _ in range(20):
            self._defer_while_cleaning_up(calls)
        assert len(calls) == 20 * 50

    def _defer_while_cleaning_up(self, calls: Calls) -> None:
        kept: list[Context] = []
        begun = threading.Event()

        def defer_often() -> None:
            begun.wait()
            for _ in range(50):
                with contextlib.suppress(PlanError):
                    kept[0].defer(calls.note, "undo")

        plan = Plan()
        step = GenericStep(exec=lambda ctx: kept.append(ctx), cleanup=lambda: begun.set())
        thread = Background(defer_often)
        plan.add_step(step).execute()
        thread.result()

    def test_nothing_is_started_or_set_after_the_run(self, plan: Plan) -> None:
        """`start`, `run` and `setenv` are refused as well."""
        kept: list[Context] = []
        plan.add_step(GenericStep(exec=lambda ctx: kept.append(ctx))).execute()
        for late in (
            lambda: kept[0].start(["sleep", "60"]),
            lambda: kept[0].run(["true"]),
            lambda: kept[0].setenv("PLAN_TEST_VARIABLE", "1"),
        ):
            with pytest.raises(PlanError, match="has been cleaned up"):
                late()
        assert "PLAN_TEST_VARIABLE" not in os.environ


class TestSetenv:
    """`ctx.setenv`."""

    NAME = "PLAN_TEST_VARIABLE"

    def test_the_variable_is_set_until_cleanup(self, plan: Plan) -> None:
        """It is unset afterwards."""
        plan.add_step(GenericStep(exec=lambda ctx: ctx.setenv(self.NAME, "value")))
        with plan.provisioned():
            assert os.environ[self.NAME] == "value"
        assert self.NAME not in os.environ

    def test_what_was_there_comes_back(self, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        """The old value returns, however often the step has set the variable."""
        monkeypatch.setenv(self.NAME, "before")

        def exec(ctx: Context) -> None:
            ctx.setenv(self.NAME, "one")
            ctx.setenv(self.NAME, "two")

        with plan.add_step(GenericStep(exec=exec)).provisioned():
            assert os.environ[self.NAME] == "two"
        assert os.environ[self.NAME] == "before"

    def test_it_is_restored_when_the_step_fails(self, plan: Plan) -> None:
        """It is restored before the next attempt as well."""
        seen: list[str | None] = []

        def exec(ctx: Context) -> None:
            seen.append(os.environ.get(self.NAME))
            ctx.setenv(self.NAME, "value")
            raise ValueError

        plan.add_step(FunctionStep(exec=exec), retries=1, retry_wait=0)
        with pytest.raises(StepError):
            plan.execute()
        assert seen == [None, None]
        assert self.NAME not in os.environ

    def test_what_a_remembered_hook_has_set_comes_back_before_a_retry(self, plan: Plan) -> None:
        """If only `exec` is repeated, only its variables are restored."""
        seen: list[str | None] = []

        def exec(ctx: Context) -> None:
            seen.append(os.environ.get(self.NAME))
            ctx.setenv(self.NAME, "of exec")
            if ctx.attempt == 1:
                raise ValueError

        step = GenericStep(pre_exec=lambda ctx: ctx.setenv(self.NAME, "of pre_exec"), exec=exec)
        plan.add_step(step, retries=1, retry_wait=0).execute()
        assert seen == ["of pre_exec", "of pre_exec"]
        assert self.NAME not in os.environ

    def test_two_steps_cannot_set_the_same_variable(self, plan: Plan) -> None:
        """The error names the variable and both steps; the first value stays."""
        plan.add_step(GenericStep(exec=lambda ctx: ctx.setenv(self.NAME, "1")), name="one")
        plan.add_step(GenericStep(exec=lambda ctx: ctx.setenv(self.NAME, "2")), name="two")
        with pytest.raises(StepError) as caught:
            plan.execute()
        assert isinstance(caught.value.__cause__, PlanDefinitionError)
        for word in ("'one'", "'two'", self.NAME):
            assert word in str(caught.value)

    @pytest.mark.parametrize("name", ["", "A=B", "A\0B"])
    def test_a_name_that_the_system_refuses_changes_nothing(self, plan: Plan, name: str) -> None:
        """The step fails, and cleanup has nothing to restore."""
        error = cause_of(plan, lambda ctx: ctx.setenv(name, "value"))
        assert isinstance(error, (ValueError, OSError))


class TestPlaces:
    """`free_port`, `tmp_path`, `artifacts` and `log`."""

    def test_a_port_is_never_given_twice(self, plan: Plan) -> None:
        """Two hundred calls in four concurrent steps return different ports."""
        ports: list[int] = []
        for _ in range(4):
            plan.add_step(
                GenericStep(exec=lambda ctx: ports.extend(ctx.free_port() for _ in range(50))),
                needs=(),
            )
        plan.execute()
        assert len(set(ports)) == 200
        assert all(1024 <= port <= 65535 for port in ports)

    def test_tmp_path_is_the_steps_own(self, plan: Plan, own_temporary_folder: Path) -> None:
        """It is empty, writable, short, and removed after cleanup."""
        paths: list[Path] = []

        def exec(ctx: Context) -> None:
            assert list(ctx.tmp_path.iterdir()) == []
            (ctx.tmp_path / "file").touch()
            assert ctx.tmp_path.stat().st_mode & 0o777 == 0o711
            assert ctx.tmp_path.parent.stat().st_mode & 0o777 == 0o711
            paths.append(ctx.tmp_path)

        plan.add_step(GenericStep(exec=exec), name="one")
        plan.add_step(GenericStep(exec=exec), name="two").execute()
        assert len(set(paths)) == 2
        assert all(path.is_relative_to(own_temporary_folder) for path in paths)
        assert len(str(paths[0].relative_to(own_temporary_folder))) < 30
        assert not any(path.exists() for path in paths)

    def test_tmp_path_is_there_in_cleanup(self, plan: Plan) -> None:
        """It is removed after the last cleanup."""
        seen: list[bool] = []
        plan.add_step(
            GenericStep(
                exec=lambda ctx: (ctx.tmp_path / "file").touch(),
                cleanup=lambda ctx: seen.append((ctx.tmp_path / "file").exists()),
            )
        )
        plan.execute()
        assert seen == [True]

    def test_artifacts_outlive_the_run(self, plan: Plan, tmp_path: Path) -> None:
        """They do if the run was given a folder for them."""
        plan.add_step(
            GenericStep(exec=lambda ctx: (ctx.artifacts / "dump").write_text("x")), name="it"
        )
        run = begin(plan, artifacts=tmp_path)
        run.provision()
        run.clean_up()
        assert (tmp_path / run.run_id / "it" / "dump").read_text() == "x"

    def test_the_tail_of_the_log_is_in_the_result_of_a_failure(self, plan: Plan) -> None:
        """It has the last lines of `ctx.log`, `run` and `start`, with secrets masked."""

        def exec(ctx: Context) -> None:
            for number in range(50):
                ctx.log(number)
            ctx.run(["echo", "of a program"])
            raise ValueError

        plan.add_step(GenericStep(exec=exec), name="it")
        result, _ = execute(plan)
        tail = result.steps["it"].log_tail.splitlines()
        assert tail[-3:] == ["49", "$ echo 'of a program'", "of a program"]
        assert len(tail) == 30

    def test_a_secret_value_is_masked_in_the_log(self, plan: Plan) -> None:
        """It is masked as soon as `exec` has returned it."""

        def fail(ctx: Context, value: str) -> None:
            ctx.run(["echo", f"password={value}"])
            raise ValueError

        plan.add_step(GenericStep(exec=lambda: Secret("hunter2"), post_exec=fail), name="it")
        result, _ = execute(plan)
        assert "password=***" in result.steps["it"].log_tail
        assert "hunter2" not in result.steps["it"].log_tail

    def test_a_secret_in_the_state_is_masked_in_the_log(self, plan: Plan) -> None:
        """It does not matter how the secret came into the State."""

        def exec(ctx: Context, state: State) -> None:
            state["password"] = Secret("hunter2")
            ctx.log("logged in with hunter2")
            raise ValueError

        plan.add_step(GenericStep(exec=exec), name="it")
        result, _ = execute(plan)
        assert result.steps["it"].log_tail == "logged in with ***"

    def test_other_steps_get_what_a_secret_hides(self, plan: Plan) -> None:
        """A parameter has the revealed value; the State keeps the Secret."""
        seen: list[Any] = []
        plan.add_step(GenericStep(exec=lambda: Secret("hunter2")), name="password")
        plan.add_step(
            GenericStep(exec=lambda password, state: seen.extend([password, state["password"]]))
        )
        plan.execute()
        assert seen == ["hunter2", Secret("hunter2")]

    def test_a_log_line_may_be_anything(self, plan: Plan) -> None:
        """Text that cannot be encoded is no error."""

        def exec(ctx: Context) -> None:
            ctx.log("\udcff")
            ctx.log({"a": 1})
            raise ValueError

        plan.add_step(GenericStep(exec=exec), name="it")
        result, _ = execute(plan)
        assert result.steps["it"].log_tail.splitlines()[-1] == "{'a': 1}"


class TestIdentity:
    """The step, its attempt, its thread and its origin."""

    def test_it_knows_its_step_and_attempt(self, plan: Plan, calls: Calls) -> None:
        """`ctx.step` is the name, and `ctx.attempt` the number."""
        assert run_step(plan, lambda ctx: (ctx.step, ctx.attempt, ctx.reason)) == ("it", 1, None)

    def test_hooks_do_not_run_on_the_main_thread(self, plan: Plan) -> None:
        """A hook runs on a daemon thread that is named after the step."""
        thread = run_step(plan, lambda ctx: threading.current_thread())
        assert thread is not threading.current_thread()
        assert thread.daemon

    def test_the_result_of_a_run_has_its_origin(self, plan: Plan) -> None:
        """The origin is the `file:line` of add_step."""
        result = plan.add_step(GenericStep(), name="it").execute()
        assert result.steps["it"].origin.startswith(__file__)
        assert result.steps["it"].outcome is StepOutcome.SUCCEEDED
