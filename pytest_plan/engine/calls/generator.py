"""Runs a generator function of a step up to its `yield`, and at cleanup from there to its end.

Both parts run on the same thread and in the same context, and those of an async generator in the
same task. The code after the `yield` runs at most once.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.calls.body import Body, CoroutineBody, PlainBody
from pytest_plan.engine.calls.loop import AsyncPart, LoopThread, StepLoop
from pytest_plan.engine.calls.stopping.interrupt import Interrupt, call_interruptibly
from pytest_plan.engine.definition.signature import HookFunction, Kind
from pytest_plan.engine.model.clock import Clock
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.processes.copies import end_copy, getpid

if TYPE_CHECKING:
    import asyncio

_NO_YIELD = "step {!r} is a generator function but ended without a yield; it must yield once"
_TWO_YIELDS = (
    "step {!r} yielded twice; a step yields once, and the code after its yield is its cleanup: "
    "split it into two steps"
)


class _Part:
    """One part of a generator: the code up to its `yield`, or the code after it."""

    __slots__ = ("error", "has_ended", "interrupt", "value")

    def __init__(self, interrupt: Interrupt) -> None:
        self.interrupt = interrupt
        self.has_ended = False
        self.value: Any = None
        self.error: BaseException | None = None


class GeneratorBody:
    """Runs a generator from its first line to its last on one thread and in one context.

    The thread waits at the `yield`, because sqlite3 and `ContextVar.reset` would fail on another
    thread. The first `perform` runs the generator up to its `yield`, the second to its end.
    """

    def __init__(
        self, step: str, function: Callable[..., Any], keywords: Mapping[str, Any], clock: Clock
    ) -> None:
        self._step = step
        self._call = functools.partial(function, **keywords)
        self._clock = clock
        # The attributes below change only under _changed. `perform` starts the thread with the
        # first part, and sets _asked to the second. The generator's thread runs a part, and then
        # sets how it ended.
        self._changed = threading.Condition()
        self._asked: _Part | None = None
        self._has_tail = False
        self._is_abandoned = False
        self._thread: threading.Thread | None = None

    @property
    def tail(self) -> GeneratorBody | None:
        """The body of the tail; None if the generator was abandoned or has not yielded."""
        return self if self._has_tail else None

    def perform(self, interrupt: Interrupt) -> Any:
        """Run the next part of the generator and wait for it; return any value that it yields.

        Raises:
            PlanDefinitionError: the generator did not yield, or yielded twice.
        """
        part = _Part(interrupt)
        with self._changed:
            if self._thread is None:
                self._thread = self._new_thread(part)
            else:
                self._asked = part
                self._changed.notify_all()
            self._clock.wait_for(self._changed, lambda: part.has_ended, None)
        if part.error is not None:
            raise part.error
        return part.value

    def stop(self) -> None:
        """Do nothing, because the generator's `ctx` tells it to stop."""

    def thread(self) -> int | None:
        """Return the id of the generator's thread; None before it starts."""
        return None if self._thread is None else self._thread.ident

    def abandon(self) -> None:
        """End the thread if the generator yields later. One that has yielded keeps its tail."""
        with self._changed:
            self._is_abandoned = not self._has_tail
            self._changed.notify_all()

    def _new_thread(self, head: _Part) -> threading.Thread:
        target, name = contextvars.copy_context().run, f"plan-{self._step}-generator"
        thread = threading.Thread(target=target, args=(self._live, head), name=name, daemon=True)
        thread.start()
        return thread

    def _live(self, head: _Part) -> None:
        generator: list[Any] = []
        self._answer(head, lambda interrupt: self._head(generator, interrupt), is_head=True)
        if self._has_tail:
            self._answer(self._asked_for(), lambda interrupt: self._tail(generator[0], interrupt))

    def _answer(
        self, part: _Part, run: Callable[[Interrupt], Any], *, is_head: bool = False
    ) -> None:
        """Run a part, and set how it ended."""
        process = getpid()
        value = error = None
        try:
            value = run(part.interrupt)
        except BaseException as raised:
            error = raised
        end_copy(process, error)
        with self._changed:
            self._has_tail = is_head and error is None and not self._is_abandoned
            part.value, part.error, part.has_ended = value, error, True
            self._changed.notify_all()

    def _asked_for(self) -> _Part:
        """Wait for the second `perform`, and return its part."""
        with self._changed:
            self._clock.wait_for(self._changed, lambda: self._asked is not None, None)
        assert self._asked is not None
        return self._asked

    def _head(self, made: list[Any], interrupt: Interrupt) -> Any:
        generator = self._call()
        made.append(generator)
        yielded = call_interruptibly(interrupt, _to_next_yield(generator))
        if not yielded:
            raise PlanDefinitionError(_NO_YIELD.format(self._step), step=self._step)
        return yielded[0]

    def _tail(self, generator: Any, interrupt: Interrupt) -> None:
        if call_interruptibly(interrupt, _to_next_yield(generator)):
            call_interruptibly(interrupt, generator.close)
            raise PlanDefinitionError(_TWO_YIELDS.format(self._step), step=self._step)


def _to_next_yield(generator: Any) -> Callable[[], list[Any]]:
    """Return a function that continues `generator`; it returns what the generator yields.

    The function is written in C, so what it returns is not lost if an interruption follows.
    """
    return functools.partial(list, itertools.islice(generator, 1))


class AsyncGeneratorBody:
    """Runs an async generator up to its `yield`, in one task of its step's loop.

    The task waits at the `yield` until `tail` is performed, and then runs the code after it.
    """

    def __init__(
        self,
        step: str,
        function: Callable[..., Any],
        keywords: Mapping[str, Any],
        clock: Clock,
        loop: StepLoop,
    ) -> None:
        self._step = step
        self._call = functools.partial(function, **keywords)
        self._clock = clock
        self._loop = loop
        self._part = AsyncPart(clock)
        self._lock = threading.Lock()  # guards the two attributes below
        self._tail: AsyncTail | None = None
        self._is_abandoned = False

    @property
    def tail(self) -> AsyncTail | None:
        """The body of the tail; None if the generator was abandoned or has not yielded."""
        return self._tail

    def perform(self, interrupt: Interrupt) -> Any:
        """Run the generator up to its `yield`; return the value that it yields.

        Raises:
            PlanDefinitionError: the generator did not yield.
        """
        thread, context = self._loop.start(), contextvars.copy_context()
        return self._part.perform(
            thread, interrupt, lambda: thread.own_task(self._drive(thread), context)
        )

    def stop(self) -> None:
        """Cancel the task. If it was interrupted, the exception is raised at its `await`."""
        self._part.cancel()

    def thread(self) -> int | None:
        """Return the id of the loop's thread; None before the generator begins."""
        return None if self._part.thread is None else self._part.thread.ident

    def abandon(self) -> None:
        """Leave the loop to the generator. One that has yielded keeps its tail."""
        with self._lock:
            self._is_abandoned = self._tail is None
        if self._is_abandoned and self._part.thread is not None:
            self._loop.leave(self._part.thread)

    async def _drive(self, thread: LoopThread) -> None:
        with thread.generator():
            try:
                generator = self._call()
                value = await self._head(generator)
            except BaseException as error:
                self._part.end(error=error)
                return
            with self._lock:
                if not self._is_abandoned:
                    self._tail = AsyncTail(self._step, self._clock, self._loop, thread)
                tail = self._tail
            self._part.end(value)
            if tail is not None:
                await tail.run(generator)

    async def _head(self, generator: Any) -> Any:
        try:
            return await self._part.run(generator.__anext__(), lambda: generator.ag_frame)
        except StopAsyncIteration:
            pass
        raise PlanDefinitionError(_NO_YIELD.format(self._step), step=self._step)


class AsyncTail:
    """Runs the code after the `yield` of an async generator, in the task that ran the code before.

    Args:
        step: the step's name.
        clock: the clock on which the calling thread waits.
        loop: the event loop of the step.
        thread: the thread of the generator's own loop, which the step may have left.
    """

    def __init__(self, step: str, clock: Clock, loop: StepLoop, thread: LoopThread) -> None:
        self._step = step
        self._loop = loop
        self._thread = thread
        self._part = AsyncPart(clock)
        # Only the loop uses these.
        self._wake: asyncio.Future[None] | None = None
        self._is_resumed = False

    def perform(self, interrupt: Interrupt) -> None:
        """Run the generator to its end.

        Raises:
            PlanDefinitionError: the generator yielded twice.
        """
        self._part.perform(self._thread, interrupt, self._resume)

    def stop(self) -> None:
        """Cancel the task. If it was interrupted, the exception is raised at its `await`."""
        self._part.cancel()

    def thread(self) -> int | None:
        """Return the id of the loop's thread."""
        return self._thread.ident

    def abandon(self) -> None:
        """Leave the loop to the generator."""
        self._loop.leave(self._thread)

    async def run(self, generator: Any) -> None:
        """Wait until this body is performed, then run the tail of `generator`."""
        while not self._is_resumed and not self._thread.is_ending:
            await self._park()
        if not self._is_resumed:
            return
        try:
            await self._finish(generator)
        except BaseException as error:
            self._part.end(error=error)
        else:
            self._part.end()

    def _resume(self) -> None:
        self._is_resumed = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _park(self) -> None:
        import asyncio

        self._wake = asyncio.get_running_loop().create_future()
        # A cancellation that arrives here was meant for the code before the `yield`.
        with contextlib.suppress(asyncio.CancelledError):
            await self._wake

    async def _finish(self, generator: Any) -> None:
        try:
            await self._part.run(generator.__anext__(), lambda: generator.ag_frame)
        except StopAsyncIteration:
            return
        await self._part.run(generator.aclose(), lambda: generator.ag_frame)
        raise PlanDefinitionError(_TWO_YIELDS.format(self._step), step=self._step)


def hook_body(
    step: str, hook: HookFunction, keywords: Mapping[str, Any], clock: Clock, loop: StepLoop
) -> Body:
    """Return the body of a hook; only an `exec` hook may be a generator function."""
    function = hook.function
    match hook.kind:
        case Kind.GENERATOR:
            return GeneratorBody(step, function, keywords, clock)
        case Kind.ASYNC_GENERATOR:
            return AsyncGeneratorBody(step, function, keywords, clock, loop)
        case Kind.COROUTINE:
            return CoroutineBody(loop, clock, function, (), keywords)
    return PlainBody(function, **keywords)
