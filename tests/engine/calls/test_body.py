"""How generators, coroutines and async generators run, and on which thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pytest_plan.engine.calls.body import Body, CoroutineBody, PlainBody, deferred_body
from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.calls.generator import AsyncGeneratorBody, GeneratorBody
from pytest_plan.engine.calls.loop import StepLoop
from pytest_plan.engine.calls.stopping.interrupt import Interrupt, StepInterrupted
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.engine.model.results import StepError, StepTimeoutError
from pytest_plan.engine.plan import Plan, begin
from pytest_plan.engine.shared.log import StepLog, current_log
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Calls, Gate, cancel_and_sleep, execute

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE")


@pytest.fixture
def plan(clock: FakeClock) -> Plan:
    """An empty plan that needs no real time."""
    return Plan(clock=clock)


@pytest.fixture
def loop() -> Iterator[StepLoop]:
    """The event loop of a step."""
    loop = StepLoop("it")
    yield loop
    loop.leave()


def log_of(plan: Plan, exec: Callable[..., Any]) -> StepLog:
    """Run a plan with this one step; return the step's log."""
    run = begin(plan.add_step(GenericStep(exec=exec), name="it"))
    run.provision()
    run.clean_up()
    return run.step_runs["it"].log


class TestGenerators:
    """Steps that are generators."""

    def test_what_it_yields_is_the_value_and_what_follows_is_its_cleanup(
        self, plan: Plan, calls: Calls
    ) -> None:
        """The code after the `yield` runs after the body of `provisioned`."""

        def exec() -> Iterator[int]:
            calls.note("head")
            yield 7
            calls.note("tail")

        with plan.add_step(GenericStep(exec=exec), name="it").provisioned() as state:
            assert state["it"] == 7
            calls.note("body")
        assert calls == ["head", "body", "tail"]

    def test_it_stays_on_one_thread_and_in_one_context(self, plan: Plan, calls: Calls) -> None:
        """A sqlite3 connection and a ContextVar token work across the `yield`."""
        threads: list[threading.Thread] = []

        def exec() -> Iterator[None]:
            connection = sqlite3.connect(":memory:")
            token = VARIABLE.set("inside")
            threads.append(threading.current_thread())
            yield
            threads.append(threading.current_thread())
            connection.execute("select 1")
            connection.close()
            calls.note(VARIABLE.get())
            VARIABLE.reset(token)

        plan.add_step(GenericStep(exec=exec)).execute()
        assert calls == ["inside"]
        assert threads[0] is threads[1]

    def test_its_cleanup_hook_runs_before_its_tail(self, plan: Plan, calls: Calls) -> None:
        """The cleanup hook runs first, then the undo stack with the tail."""

        def exec() -> Iterator[None]:
            yield
            calls.note("tail")

        plan.add_step(GenericStep(exec=exec, cleanup=calls.hook("cleanup"))).execute()
        assert calls == ["cleanup", "tail"]

    def test_its_tail_runs_once_when_post_exec_failed(self, plan: Plan, calls: Calls) -> None:
        """A generator that has yielded is undone, even if the step fails later."""

        def exec() -> Iterator[None]:
            yield
            calls.note("tail")

        step = GenericStep(exec=exec, post_exec=calls.hook("post_exec", failures=1))
        with pytest.raises(StepError):
            plan.add_step(step).execute()
        assert calls == ["post_exec", "tail"]

    def test_no_error_is_thrown_in_at_its_yield(self, plan: Plan, calls: Calls) -> None:
        """Not even an error of the body is thrown in at the `yield`."""

        def exec() -> Iterator[None]:
            try:
                yield
            except BaseException as error:
                calls.note(repr(error))
                raise
            calls.note("tail")

        plan.add_step(GenericStep(exec=exec))
        with pytest.raises(LookupError), plan.provisioned():
            raise LookupError
        assert calls == ["tail"]

    def test_an_error_before_the_yield_is_a_failure_without_tail(
        self, plan: Plan, calls: Calls
    ) -> None:
        """The step fails; its deferred calls run, but there is no tail."""

        def exec(ctx: Context) -> Iterator[None]:
            ctx.defer(calls.note, "undo")
            calls.hook("head", failures=1)()
            yield
            calls.note("tail")

        with pytest.raises(StepError, match="head 1"):
            plan.add_step(GenericStep(exec=exec)).execute()
        assert calls == ["head", "undo"]

    def test_an_error_in_the_tail_is_an_error_of_cleanup(self, plan: Plan, calls: Calls) -> None:
        """The error names the tail, and other deferred calls run."""

        def exec(ctx: Context) -> Iterator[None]:
            ctx.defer(calls.note, "undo")
            yield
            calls.hook("tail", failures=1)()

        result_error = execute(plan.add_step(GenericStep(exec=exec), name="it"))[1]
        assert isinstance(result_error, ExceptionGroup)
        (error,) = result_error.exceptions
        assert str(error.__cause__) == "tail 1"
        assert any("yield" in note for note in error.__notes__)
        assert calls == ["tail", "undo"]

    def test_one_that_never_yields_is_refused(self, plan: Plan) -> None:
        """PlanDefinitionError names the step."""

        def exec() -> Iterator[None]:
            yield from ()

        with pytest.raises(StepError, match=r"'it'.*without a yield") as caught:
            plan.add_step(GenericStep(exec=exec), name="it").execute()
        assert isinstance(caught.value.__cause__, PlanDefinitionError)

    def test_one_that_yields_twice_is_refused_and_closed(self, plan: Plan, calls: Calls) -> None:
        """It fails at cleanup; the rest does not run, but its `finally` clauses do."""

        def exec() -> Iterator[None]:
            try:
                yield
                yield
                calls.note("never")
            finally:
                calls.note("finally")

        _, error = execute(plan.add_step(GenericStep(exec=exec), name="it"))
        assert isinstance(error, ExceptionGroup)
        assert "yielded twice" in str(error.exceptions[0])
        assert calls == ["finally"]

    def test_its_tail_is_stopped_like_any_cleanup(self, plan: Plan, clock: FakeClock) -> None:
        """The tail is stopped through its `ctx` at its cleanup_timeout."""
        begun = clock.now()

        def exec(ctx: Context) -> Iterator[None]:
            yield
            ctx.sleep(100)

        plan.add_step(GenericStep(exec=exec), name="it", cleanup_timeout=20)
        result, error = execute(plan)
        assert isinstance(error, ExceptionGroup)
        assert result.steps["it"].cleanup.outcome is CleanupOutcome.TIMED_OUT
        assert clock.now() - begun == pytest.approx(20, abs=0.1)

    def test_its_tail_has_a_context_that_is_not_cancelled(self, plan: Plan, calls: Calls) -> None:
        """The tail's `ctx` is not cancelled, though the plan is; it has a `ctx.reason`."""

        def exec(ctx: Context) -> Iterator[None]:
            yield
            ctx.sleep(1)
            calls.note(f"{ctx.reason} {ctx.cancelled}")

        plan.add_step(GenericStep(exec=exec))
        plan.add_step(GenericStep(exec=cancel_and_sleep(plan)))
        execute(plan)
        assert calls == ["cancelled False"]

    def test_one_that_is_stuck_before_its_yield_has_no_tail(
        self, plan: Plan, gate: Gate, calls: Calls
    ) -> None:
        """Only its deferred calls run; the report has its stack."""

        def exec(ctx: Context) -> Iterator[None]:
            ctx.defer(calls.note, "undo")
            gate.hang()
            yield
            calls.note("tail")

        result, error = execute(plan.add_step(GenericStep(exec=exec), name="it", timeout=5))
        assert isinstance(error, StepTimeoutError)
        assert calls == ["undo"]
        assert "hold" in result.steps["it"].stack

    def test_the_thread_of_one_that_was_abandoned_ends_when_it_yields(
        self, plan: Plan, gate: Gate
    ) -> None:
        """An abandoned generator does not wait at its `yield` for ever."""

        def exec() -> Iterator[None]:
            with contextlib.suppress(StepInterrupted):
                gate.hang()
            yield

        _, error = execute(plan.add_step(GenericStep(exec=exec), timeout=5))
        assert isinstance(error, StepTimeoutError)
        gate.open()  # and nothing_left_behind looks for the thread

    def test_its_prints_belong_to_its_log(self, plan: Plan) -> None:
        """`current_log` is the step's log, before and after the `yield`."""
        logs: list[Any] = []

        def exec() -> Iterator[None]:
            logs.append(current_log.get())
            yield
            logs.append(current_log.get())

        log = log_of(plan, exec)
        assert logs == [log] * 2


class TestCoroutines:
    """Hooks that are `async def` functions."""

    def test_every_hook_may_be_one(self, plan: Plan, calls: Calls) -> None:
        """Each `async def` hook runs in an event loop."""

        def hook(name: str) -> Callable[[], Any]:
            async def call() -> str:
                await asyncio.sleep(0)
                calls.note(name)
                return name

            return call

        step = GenericStep(
            pre_exec=hook("pre_exec"),
            exec=hook("exec"),
            post_exec=hook("post_exec"),
            cleanup=hook("cleanup"),
        )
        with plan.add_step(step, name="it").provisioned() as state:
            assert state["it"] == "exec"
        assert calls == ["pre_exec", "exec", "post_exec", "cleanup"]

    def test_its_prints_belong_to_its_log(self, plan: Plan) -> None:
        """`current_log` is the step's log, in its task and in tasks that it starts."""
        logs: list[Any] = []

        async def note() -> None:
            logs.append(current_log.get())

        async def exec() -> None:
            await note()
            await asyncio.create_task(note())

        log = log_of(plan, exec)
        assert logs == [log] * 2

    def test_one_that_blocks_its_loop_is_interrupted(self, plan: Plan, clock: FakeClock) -> None:
        """The third stage of the escalation ends a loop that cannot be cancelled."""
        unwound: list[bool] = []

        async def exec() -> None:
            try:
                clock.spin()
            finally:
                unwound.append(True)

        _, error = execute(plan.add_step(GenericStep(exec=exec), timeout=5))
        assert isinstance(error, StepTimeoutError)
        assert unwound == [True]

    def test_a_stop_before_it_begins_cancels_it(self, loop: StepLoop, clock: FakeClock) -> None:
        """A request that comes before the task exists is not lost."""

        async def wait() -> None:
            await asyncio.sleep(3600)

        body = CoroutineBody(loop, clock, wait)
        body.stop()
        with pytest.raises(asyncio.CancelledError):
            body.perform(Interrupt())

    def test_a_stop_after_its_end_does_nothing(self, loop: StepLoop, clock: FakeClock) -> None:
        """A request that comes after the loop was closed has no effect."""

        async def work() -> int:
            return 7

        body = CoroutineBody(loop, clock, work)
        assert body.perform(Interrupt()) == 7
        body.stop()


class TestAsyncGenerators:
    """Steps that are async generators."""

    def test_one_task_runs_it_from_end_to_end(self, plan: Plan, calls: Calls) -> None:
        """The task, the loop and the context stay the same; the step's value is the yielded one."""
        tasks: list[Any] = []

        async def exec() -> AsyncIterator[int]:
            token = VARIABLE.set("inside")
            tasks.append((asyncio.current_task(), asyncio.get_running_loop()))
            yield 7
            tasks.append((asyncio.current_task(), asyncio.get_running_loop()))
            VARIABLE.reset(token)

        with plan.add_step(GenericStep(exec=exec), name="it").provisioned() as state:
            assert state["it"] == 7
            assert len(tasks) == 1
        assert tasks[0] == tasks[1]

    def test_its_loop_goes_on_while_it_is_parked(self, plan: Plan) -> None:
        """A server in the step's event loop serves the tests."""
        answers: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()

        async def exec() -> AsyncIterator[int]:
            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                yield server.sockets[0].getsockname()[1]

        async def ask(port: int) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return answer

        with plan.add_step(GenericStep(exec=exec), name="port").provisioned() as state:
            answers.append(asyncio.run(ask(state["port"])))
        assert answers == [b"hello\n"]

    def test_it_is_cancelled_the_asyncio_way(self, plan: Plan, calls: Calls) -> None:
        """Before the `yield` it sees CancelledError at its `await`."""

        async def exec() -> AsyncIterator[None]:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                calls.note("cancelled")
                raise
            yield

        _, error = execute(plan.add_step(GenericStep(exec=exec), timeout=5))
        assert isinstance(error, StepTimeoutError)
        assert calls == ["cancelled"]

    def test_its_tail_is_cancelled_the_asyncio_way(self, plan: Plan, calls: Calls) -> None:
        """After the `yield` it sees CancelledError at its cleanup_timeout."""

        async def exec() -> AsyncIterator[None]:
            yield
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                calls.note("cancelled")
                raise

        plan.add_step(GenericStep(exec=exec), name="it", cleanup_timeout=5)
        result, _ = execute(plan)
        assert calls == ["cancelled"]
        assert result.steps["it"].cleanup.outcome is CleanupOutcome.TIMED_OUT

    def test_a_stop_that_comes_after_its_yield_does_not_cost_its_tail(
        self, loop: StepLoop, clock: FakeClock, calls: Calls
    ) -> None:
        """If the timeout and the `yield` coincide, the tail still runs."""

        async def exec() -> AsyncIterator[None]:
            yield
            await asyncio.sleep(0)
            calls.note("tail")

        body = AsyncGeneratorBody("it", exec, {}, clock, loop)
        body.perform(Interrupt())
        assert body.tail is not None
        body.stop()
        body.tail.perform(Interrupt())
        assert calls == ["tail"]

    @pytest.mark.parametrize(("times", "words"), [(0, "without a yield"), (2, "yielded twice")])
    def test_it_yields_once(self, plan: Plan, times: int, words: str) -> None:
        """No `yield`, or a second one, is an error as for a generator."""

        async def exec() -> AsyncIterator[None]:
            for _ in range(times):
                yield

        _, error = execute(plan.add_step(GenericStep(exec=exec), name="it"))
        assert error is not None
        text = str(error.exceptions[0]) if isinstance(error, ExceptionGroup) else str(error)
        assert words in text

    def test_its_prints_belong_to_its_log(self, plan: Plan) -> None:
        """`current_log` is the step's log, before and after the `yield`."""
        logs: list[Any] = []

        async def exec() -> AsyncIterator[None]:
            logs.append(current_log.get())
            yield
            logs.append(current_log.get())

        log = log_of(plan, exec)
        assert logs == [log] * 2


class TestBodyOf:
    """Which body a function gets."""

    def test_plain_and_async_functions_are_told_apart(
        self, loop: StepLoop, clock: FakeClock
    ) -> None:
        """A callable object counts by its `__call__`."""

        def body_of(function: Callable[..., Any]) -> Body:
            return deferred_body(loop, clock, function)

        async def coroutine() -> None: ...

        class Plain:
            def __call__(self) -> None: ...

        class Coroutine:
            async def __call__(self) -> None: ...

        assert isinstance(body_of(print), PlainBody)
        assert isinstance(body_of(Plain()), PlainBody)
        assert isinstance(body_of(coroutine), CoroutineBody)
        assert isinstance(body_of(Coroutine()), CoroutineBody)

    def test_only_generators_have_a_thread_of_their_own(
        self, loop: StepLoop, clock: FakeClock
    ) -> None:
        """Other functions run on the calling thread."""

        async def coroutine() -> None: ...

        def generator() -> Iterator[int]:
            yield threading.get_ident()

        assert PlainBody(print).thread() is None
        assert CoroutineBody(loop, clock, coroutine).thread() is None
        run = GeneratorBody("it", generator, {}, clock)
        assert run.perform(Interrupt()) == run.thread() != threading.get_ident()
        run.perform(Interrupt())
