"""generator."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from pytest_plan.engine.calls.body import Body, CoroutineBody, PlainBody, _Cancel, armed
from pytest_plan.engine.calls.call import Raised, Returned
from pytest_plan.engine.calls.interrupt import Interrupt
from pytest_plan.engine.definition.signature import HookFunction, Kind
from pytest_plan.engine.model.clock import Clock
from pytest_plan.engine.model.errors import PlanDefinitionError

_NO_YIELD = "step {!r} is a generator function but ended without a yield"


_TWO_YIELDS = (
    "step {!r} yielded twice; a step yields once, what follows is its cleanup: make two steps of it"
)


class GeneratorBody:
    """A generator from its first line to its last, on one thread and in one context.

    The thread is parked at the `yield`: elsewhere sqlite3 and `ContextVar.reset` would break.
    Performed once it runs up to its `yield`, performed again to its end.
    """

    def __init__(
        self, step: str, function: Callable[..., Any], keywords: Mapping[str, Any], clock: Clock
    ) -> None:
        self._step = step
        self._function = function
        self._keywords = keywords
        self._clock = clock
        # All of these change only under _changed. The performer sets _asked and clears _ending,
        # the generator's thread takes _asked and answers by setting _ending.
        self._changed = threading.Condition()
        self._asked: Interrupt | None = None
        self._ending: Returned | Raised | None = None
        self._has_yielded = False
        self._is_abandoned = False
        self._thread: threading.Thread | None = None

    @property
    def has_yielded(self) -> bool:
        """Whether there is a tail to run."""
        return self._has_yielded

    def perform(self, interrupt: Interrupt) -> Any:
        """Let the generator run on and wait for it; return what it yields."""
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
        """Do nothing: a generator notices by its `ctx`."""

    def thread(self) -> int | None:
        """Return the thread of the generator."""
        return None if self._thread is None else self._thread.ident

    def abandon(self) -> None:
        """Let the thread end once the generator yields: nobody will ask for its tail."""
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
            ending = Returned(armed(interrupt, function))
        except BaseException as error:
            ending = Raised(error, "")
        if os.getpid() != process:
            os._exit(1 if isinstance(ending, Raised) else 0)  # a fork came back: see threads.py
        self._end(ending)

    def _take(self) -> Interrupt | None:
        """Wait to be performed; None when that will never be."""
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
    """An async generator, driven by one task in a loop that goes on at the `yield`."""

    def __init__(
        self, step: str, function: Callable[..., Any], keywords: Mapping[str, Any], clock: Clock
    ) -> None:
        super().__init__(step, function, keywords, clock)
        self._cancel = _Cancel()
        self._resume: Callable[[], object] | None = None

    def stop(self) -> None:
        """Cancel the task."""
        self._cancel()

    def abandon(self) -> None:
        """Let the loop end once the generator yields."""
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
        self._cancel.bind()
        try:
            interrupt.arm()
            return await part
        finally:
            interrupt.disarm()
            self._cancel.unbind()

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
    """Return the body of a hook; that of `exec` may be a generator."""
    function = hook.function
    match hook.kind:
        case Kind.GENERATOR:
            return GeneratorBody(step, function, keywords, clock)
        case Kind.ASYNC_GENERATOR:
            return AsyncGeneratorBody(step, function, keywords, clock)
        case Kind.COROUTINE:
            return CoroutineBody(function, **keywords)
    return PlainBody(function, **keywords)
