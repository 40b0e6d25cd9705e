"""The event loop of a step: which functions share it, how long it lives, and how it is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.calls.stopping.interrupt import StepInterrupted
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import CleanupError, StepError, StepTimeoutError
from pytest_plan.engine.plan import Plan, begin, listen
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.no_threads import needs_limit, no_threads
from tests.engine.support.steps import Calls, Gate, execute


@pytest.fixture
def plan(clock: FakeClock) -> Plan:
    """An empty plan that needs no real time."""
    return Plan(clock=clock)


def here() -> tuple[asyncio.AbstractEventLoop, int]:
    """Return the running loop and the id of the thread."""
    return asyncio.get_running_loop(), threading.get_ident()


class TestOneLoop:
    """All async functions of a step run in one loop on one thread."""

    def test_all_hooks_and_deferred_coroutines_share_it(self, plan: Plan) -> None:
        """Another step has another loop."""
        seen: list[Any] = []
        other: list[Any] = []

        async def undo(ctx: Context) -> None:
            seen.append(here())

        async def hook() -> None:
            seen.append(here())

        async def exec(ctx: Context) -> AsyncIterator[int]:
            seen.append(here())
            ctx.defer(undo, ctx)
            yield 1
            seen.append(here())

        async def elsewhere() -> None:
            other.append(here())

        plan.add_step(
            GenericStep(pre_exec=hook, exec=exec, post_exec=hook, cleanup=hook), name="it"
        )
        plan.add_step(GenericStep(exec=elsewhere))
        plan.execute()
        assert len(seen) == 6
        assert len(set(seen)) == 1
        assert other[0][0] is not seen[0][0]

    def test_attempts_share_it(self, plan: Plan) -> None:
        """A retry runs in the loop of the first attempt."""
        seen: list[Any] = []

        async def exec(ctx: Context) -> None:
            seen.append(here())
            if ctx.attempt == 1:
                raise ValueError

        plan.add_step(GenericStep(exec=exec), retries=1, retry_wait=0).execute()
        assert seen[0] == seen[1]

    def test_it_turns_between_the_hooks(self, plan: Plan) -> None:
        """A server and a task of `exec` serve while the body runs; `cleanup` closes them."""
        ticks: list[int] = []
        asked = threading.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            asked.set()

        async def tick() -> None:
            while True:
                ticks.append(1)
                await asyncio.sleep(0.001)

        async def exec() -> Any:
            task = asyncio.create_task(tick())
            return task, await asyncio.start_server(answer, "127.0.0.1", 0)

        async def cleanup(value: Any) -> None:
            task, server = value
            task.cancel()
            server.close()
            await server.wait_closed()

        plan.add_step(GenericStep(exec=exec, cleanup=cleanup), name="it")
        with plan.provisioned() as state:
            address = state["it"][1].sockets[0].getsockname()
            with socket.create_connection(address, timeout=5) as connection:
                connection.sendall(b"hello\n")
                assert connection.recv(10) == b"hello\n"
            assert asked.wait(5)
            before = len(ticks)
            while len(ticks) == before:
                pass

    def test_a_step_without_cleanup_keeps_it_until_then(self, plan: Plan) -> None:
        """The loop ends with the cleanup of the step, even if nothing else is to be undone."""
        loops: list[asyncio.AbstractEventLoop] = []

        async def exec() -> None:
            loops.append(asyncio.get_running_loop())

        with plan.add_step(GenericStep(exec=exec)).provisioned():
            assert loops[0].is_running()
        assert loops[0].is_closed()

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
    def test_a_task_that_exits_does_not_end_it(
        self, plan: Plan, calls: Calls, error: type[BaseException]
    ) -> None:
        """The exception goes to those who await the task."""

        async def leave() -> None:
            raise error

        async def exec() -> None:
            task = asyncio.create_task(leave())
            with pytest.raises(error):
                await task
            await asyncio.sleep(0)
            calls.note("went on")

        plan.add_step(GenericStep(exec=exec)).execute()
        assert calls == ["went on"]

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
    def test_what_a_hook_raises_is_its_ending(self, plan: Plan, error: type[BaseException]) -> None:
        """The loop lives on for the cleanup."""

        async def exec(ctx: Context) -> None:
            ctx.defer(asyncio.sleep, 0)
            raise error

        with pytest.raises(error):
            plan.add_step(GenericStep(exec=exec), name="it").execute()
        assert plan.results["it"].cleanup.outcome is CleanupOutcome.SUCCEEDED


class TestEnd:
    """Tasks that are left when the loop ends."""

    def test_they_are_cancelled_after_the_last_undo(self, plan: Plan, calls: Calls) -> None:
        """They see CancelledError, as with `asyncio.run`."""

        async def background() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                calls.note("cancelled")

        async def exec(ctx: Context) -> Any:
            ctx.defer(calls.note, "undo")
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
            return task

        plan.add_step(GenericStep(exec=exec)).execute()
        assert calls == ["undo", "cancelled"]

    @pytest.mark.parametrize("when", ["before", "at the end"])
    def test_one_that_raised_is_in_the_log(self, plan: Plan, when: str) -> None:
        """The log of the step has its traceback."""
        kept: list[Any] = []

        async def background() -> None:
            try:
                await asyncio.sleep(0 if when == "before" else 3600)
            finally:
                raise ValueError("of the task")

        async def exec() -> None:
            kept.append(asyncio.create_task(background()))
            await asyncio.sleep(0.01)

        logs: list[str] = []
        listen(plan, lambda event: logs.append(run.step_runs["it"].log.tail()))
        run = begin(plan.add_step(GenericStep(exec=exec), name="it"))
        run.provision()
        run.clean_up()
        assert any("ValueError: of the task" in log for log in logs)

    def test_one_that_does_not_end_is_left_in_time(self, plan: Plan, clock: FakeClock) -> None:
        """The cleanup of the step fails, and says what is left."""
        begun = clock.now()
        stop = threading.Event()

        async def background() -> None:
            while not stop.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)

        async def exec() -> Any:
            return asyncio.create_task(background()), asyncio.get_running_loop()

        plan.add_step(GenericStep(exec=exec), name="it", cleanup_timeout=5)
        with pytest.raises(CleanupError), plan.provisioned() as state:
            task, loop = state["it"]
        assert plan.results["it"].cleanup.left == ("the tasks of its event loop",)
        assert clock.now() - begun < 10
        stop.set()
        loop.call_soon_threadsafe(task.cancel)


class TestAbandoned:
    """A hook that cannot be stopped keeps its loop; what follows gets a new one."""

    def test_what_follows_gets_a_new_loop(self, plan: Plan, gate: Gate, calls: Calls) -> None:
        """Its deferred coroutine runs while the old loop still hangs."""
        loops: list[Any] = []

        async def undo() -> None:
            loops.append(here())
            calls.note("undo")

        async def exec(ctx: Context) -> None:
            loops.append(here())
            ctx.defer(undo)
            with contextlib.suppress(StepInterrupted):
                gate.hang()

        result, error = execute(plan.add_step(GenericStep(exec=exec), name="it", timeout=5))
        assert isinstance(error, StepTimeoutError)
        assert "hold" in result.steps["it"].stack
        assert calls == ["undo"]
        assert loops[0][0] is not loops[1][0]
        assert not loops[0][0].is_closed()
        gate.open()  # and nothing_left_behind looks for its thread

    def test_a_parked_generator_still_runs_its_tail_in_the_old_loop(
        self, plan: Plan, calls: Calls
    ) -> None:
        """`post_exec` swallows each request to stop; the generator is not lost with it."""
        stop = threading.Event()

        async def exec() -> AsyncIterator[None]:
            loop = asyncio.get_running_loop()
            yield
            await asyncio.sleep(0)
            stop.set()
            calls.note(f"tail in the same loop: {asyncio.get_running_loop() is loop}")

        async def post_exec() -> None:
            while not stop.is_set():
                with contextlib.suppress(BaseException):
                    await asyncio.sleep(3600)

        plan.add_step(GenericStep(exec=exec, post_exec=post_exec), name="it", timeout=5)
        _, error = execute(plan)
        assert isinstance(error, StepTimeoutError)
        assert calls == ["tail in the same loop: True"]


class TestStop:
    """Async code that must stop."""

    def test_what_it_finished_before_an_await_counts(self, plan: Plan, calls: Calls) -> None:
        """A cancellation is delivered only where the code really waits."""

        async def exec() -> int:
            plan.cancel()
            while not run_is_stopping():
                pass
            await done()
            return 7

        async def done() -> None:
            """Wait for nothing."""

        def run_is_stopping() -> bool:
            return bool(asyncio.current_task().cancelling() or seen.is_set())  # type: ignore[union-attr]

        seen = threading.Event()
        timer = threading.Timer(0.2, seen.set)
        timer.start()
        plan.add_step(GenericStep(exec=exec, cleanup=calls.hook("cleanup")), name="it")
        execute(plan)
        timer.join()
        assert plan.results["it"].outcome is StepOutcome.SUCCEEDED
        assert calls == ["cleanup"]

    @pytest.mark.parametrize("how", ["gather", "task group", "task"])
    def test_a_child_task_that_blocks_the_loop_is_interrupted(
        self, plan: Plan, clock: FakeClock, how: str
    ) -> None:
        """The hook waits for it, so the exception reaches both."""
        unwound: list[str] = []

        async def spin() -> None:
            try:
                clock.spin()
            finally:
                unwound.append("child")

        async def exec() -> None:
            try:
                if how == "gather":
                    await asyncio.gather(spin())
                elif how == "task":
                    await asyncio.create_task(spin())
                else:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(spin())
            finally:
                unwound.append("hook")

        _, error = execute(plan.add_step(GenericStep(exec=exec), timeout=5))
        assert isinstance(error, StepTimeoutError)
        assert unwound == ["child", "hook"]

    def test_one_that_swallows_its_cancellation_is_interrupted(self, plan: Plan) -> None:
        """StepInterrupted is raised at its `await`."""
        seen: list[str] = []

        async def exec() -> None:
            while True:
                try:
                    await asyncio.sleep(3600)
                except BaseException as error:
                    seen.append(type(error).__name__)
                    if not isinstance(error, asyncio.CancelledError):
                        raise

        _, error = execute(plan.add_step(GenericStep(exec=exec), timeout=5))
        assert isinstance(error, StepTimeoutError)
        assert seen == ["CancelledError", "StepInterrupted"]

    def test_a_background_task_is_not_what_must_stop(self, plan: Plan, calls: Calls) -> None:
        """It survives the interruption of a hook."""

        async def background() -> None:
            try:
                await asyncio.sleep(3600)
            except BaseException as error:
                calls.note(type(error).__name__)
                raise

        async def pre_exec(ctx: Context) -> Any:
            return asyncio.create_task(background())

        async def exec() -> None:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)

        step = GenericStep(pre_exec=pre_exec, exec=exec, cleanup=lambda: calls.note("cleanup"))
        execute(plan.add_step(step, timeout=5, cleanup_when="attempted"))
        assert calls == ["cleanup", "CancelledError"]


@needs_limit
def test_a_cleanup_runs_where_the_system_gives_no_thread(plan: Plan, calls: Calls) -> None:
    """An async `cleanup` then runs on the thread that waits for it."""

    async def cleanup() -> None:
        await asyncio.sleep(0)
        calls.note("cleanup")

    with plan.add_step(GenericStep(cleanup=cleanup)).provisioned(), no_threads():
        pass
    assert calls == ["cleanup"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_that_a_hook_forks_ends_with_the_hook(plan: Plan) -> None:
    """It does not continue the plan."""

    async def exec() -> int:
        return os.fork()

    with plan.add_step(GenericStep(exec=exec), name="it").provisioned() as state:
        assert os.waitstatus_to_exitcode(os.waitpid(state["it"], 0)[1]) == 0


def test_a_task_looks_like_one_of_asyncio(plan: Plan) -> None:
    """Its coroutine has the name and the attributes of the user's coroutine."""
    seen: list[Any] = []

    async def named() -> None:
        await asyncio.sleep(0)

    async def exec() -> None:
        task = asyncio.create_task(named(), name="mine")
        await asyncio.sleep(0)
        coroutine: Any = task.get_coro()
        seen.extend([task.get_name(), coroutine.cr_code.co_name, repr(task), task.get_stack()])
        await task

    plan.add_step(GenericStep(exec=exec)).execute()
    assert seen[:2] == ["mine", "named"]
    assert "named" in seen[2]
    assert len(seen[3]) == 1


def test_a_failure_keeps_its_traceback(plan: Plan) -> None:
    """The user's line is in it."""

    async def exec() -> None:
        await asyncio.sleep(0)
        raise ValueError("of exec")

    with pytest.raises(StepError) as caught:
        plan.add_step(GenericStep(exec=exec)).execute()
    cause = caught.value.__cause__
    assert cause is not None
    trace = cause.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    assert trace is not None
    assert trace.tb_frame.f_code.co_name == "exec"
    assert sys.exception() is None
