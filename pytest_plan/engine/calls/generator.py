"""Runs a generator function of a step up to its `yield`, and at cleanup from there to its end.

Both parts run on the same thread and in the same context, and those of an async generator in the
same task. The code after the `yield` runs at most once.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from pytest_plan.engine.calls.body import (
    Body,
    CoroutineBody,
    PlainBody,
    TaskCancellation,
    call_interruptibly,
)
from pytest_plan.engine.calls.call import Raised, Returned
from pytest_plan.engine.calls.interrupt import Interrupt
from pytest_plan.engine.definition.signature import HookFunction, Kind
from pytest_plan.engine.model.clock import Clock
from pytest_plan.engine.model.errors import PlanDefinitionError

_NO_YIELD = "step {!r} is a generator function but ended without a yield; it must yield once"
_TWO_YIELDS = (
    "step {!r} yielded twice; a step yields once, and the code after its yield is its cleanup: "
    "split it into two steps"
)


class GeneratorBody:
    """Runs a generator from its first line to its last on one thread and in one context.

    The thread waits at the `yield`, because sqlite3 and `ContextVar.reset` would fail on another
    thread. The first `perform` runs the generator up to its `yield`, the second to its end.
    """

    def __init__(
        self, step: str, function: Callable[..., Any], keywords: Mapping[str, Any], clock: Clock
    ) -> None:
        self._step = step
        self._function = function
        self._keywords = keywords
        self._clock = clock
        # The attributes below change only under _changed. `perform` sets _asked and clears _ending.
        # The generator's thread clears _asked, runs the next part, and then sets _ending.
        self._changed = threading.Condition()
        self._asked: Interrupt | None = None
        self._ending: Returned | Raised | None = None
        self._has_yielded = False
        self._is_abandoned = False
        self._thread: threading.Thread | None = None

    @property
    def has_yielded(self) -> bool:
        """Whether the generator has yielded, which means that it has a tail to run."""
        return self._has_yielded

    def perform(self, interrupt: Interrupt) -> Any:
        """Run the next part of the generator and wait for it; return any value that it yields.

        Raises:
            PlanDefinitionError: the generator did not yield, or yielded twice.
        """
        with self._changed:
            self._asked, self._ending = interrupt, None
            self._changed.notify_all()
            self._resume_thread()
            self._clock.wait_for(self._changed, lambda: self._ending is not None, None)
            ending: Returned | Raised | None = self._ending
        if isinstance(ending, Raised):
            raise ending.error
        return ending.value if ending else None

    def stop(self) -> None:
        """Do nothing, because the generator's `ctx` tells it to stop."""

    def thread(self) -> int | None:
        """Return the id of the generator's thread; None before it starts."""
        return None if self._thread is None else self._thread.ident

    def abandon(self) -> None:
        """End the thread once the generator yields, without running the code after its `yield`."""
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()

    def _resume_thread(self) -> None:
        if self._thread is None:
            context = contextvars.copy_context()
            name = f"plan-{self._step}-generator"
            self._thread = threading.Thread(
                target=context.run, args=(self._live,), name=name, daemon=True
            )
            self._thread.start()

    def _live(self) -> None:
        generator = self._function(**self._keywords)
        self._answer(lambda: self._head(generator))
        if self._has_yielded:
            self._answer(lambda: self._tail(generator))

    def _answer(self, function: Callable[[], Any]) -> None:
        interrupt = self._take()
        if interrupt is None:
            return
        process = os.getpid()
        ending: Returned | Raised
        try:
            ending = Returned(call_interruptibly(interrupt, function))
        except BaseException as error:
            ending = Raised(error, "")
        if os.getpid() != process:
            os._exit(1 if isinstance(ending, Raised) else 0)  # a forked child: see threads.py
        self._end(ending)

    def _take(self) -> Interrupt | None:
        """Wait for the next `perform`; return None if the call was abandoned."""
        with self._changed:
            self._clock.wait_for(
                self._changed, lambda: self._asked is not None or self._is_abandoned, None
            )
            interrupt, self._asked = self._asked, None
        return interrupt

    def _end(self, ending: Returned | Raised) -> None:
        with self._changed:
            self._ending = ending
            self._changed.notify_all()

    def _head(self, generator: Any) -> Any:
        for value in generator:
            self._has_yielded = True
            return value
        raise PlanDefinitionError(_NO_YIELD.format(self._step), step=self._step)

    def _tail(self, generator: Any) -> None:
        for _ in generator:
            generator.close()
            raise PlanDefinitionError(_TWO_YIELDS.format(self._step), step=self._step)


class AsyncGeneratorBody(GeneratorBody):
    """Runs an async generator in one task, whose event loop keeps running at the `yield`."""

    def __init__(
        self, step: str, function: Callable[..., Any], keywords: Mapping[str, Any], clock: Clock
    ) -> None:
        super().__init__(step, function, keywords, clock)
        self._cancellation = TaskCancellation()
        self._resume: Callable[[], object] | None = None

    def stop(self) -> None:
        """Cancel the task."""
        self._cancellation.request()

    def abandon(self) -> None:
        """End the loop once the generator yields."""
        super().abandon()
        if self._resume is not None:
            self._resume()

    def _resume_thread(self) -> None:
        if self._resume is not None:
            self._resume()
        else:
            super()._resume_thread()

    def _live(self) -> None:
        import asyncio

        try:
            with asyncio.Runner() as runner:
                runner.run(self._drive())
        except BaseException as error:
            self._end(Raised(error, ""))

    async def _drive(self) -> None:
        import asyncio

        go_on = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._resume = lambda: loop.call_soon_threadsafe(go_on.set)
        generator = self._function(**self._keywords)
        await self._answer_async(self._async_head(generator))
        if self._has_yielded:
            go_on.clear()
            await go_on.wait()
            await self._answer_async(self._async_tail(generator))

    async def _answer_async(self, part: Coroutine[Any, Any, Any]) -> None:
        interrupt = self._take()
        if interrupt is None:
            part.close()
            return
        try:
            self._end(Returned(await self._armed(interrupt, part)))
        except BaseException as error:
            self._end(Raised(error, ""))

    async def _armed(self, interrupt: Interrupt, part: Coroutine[Any, Any, Any]) -> Any:
        self._cancellation.bind()
        try:
            interrupt.arm()
            return await part
        finally:
            interrupt.disarm()
            self._cancellation.unbind()

    async def _async_head(self, generator: Any) -> Any:
        async for value in generator:
            self._has_yielded = True
            return value
        raise PlanDefinitionError(_NO_YIELD.format(self._step), step=self._step)

    async def _async_tail(self, generator: Any) -> None:
        async for _ in generator:
            await generator.aclose()
            raise PlanDefinitionError(_TWO_YIELDS.format(self._step), step=self._step)


def hook_body(step: str, hook: HookFunction, keywords: Mapping[str, Any], clock: Clock) -> Body:
    """Return the body of a hook; only an `exec` hook may be a generator function."""
    function = hook.function
    match hook.kind:
        case Kind.GENERATOR:
            return GeneratorBody(step, function, keywords, clock)
        case Kind.ASYNC_GENERATOR:
            return AsyncGeneratorBody(step, function, keywords, clock)
        case Kind.COROUTINE:
            return CoroutineBody(function, **keywords)
    return PlainBody(function, **keywords)
