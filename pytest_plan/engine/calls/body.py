"""Runs a plain or `async def` function of a step, and asks it to stop.

A plain function runs on the calling thread, an `async def` function in the event loop of its step.
Either can be interrupted only while it runs user code. Bodies for generators are in `generator.py`.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from pytest_plan.engine.calls.loop import AsyncPart, StepLoop
from pytest_plan.engine.calls.stopping.interrupt import Interrupt, call_interruptibly
from pytest_plan.engine.definition.signature import Kind, kind_of
from pytest_plan.engine.model.clock import Clock

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Body(Protocol):
    """Runs one function of a step."""

    def perform(self, interrupt: Interrupt) -> Any:
        """Run the function and return its value, or raise its exception.

        The function runs on the calling thread, or on the body's own thread while the caller waits.
        """

    def stop(self) -> None:
        """Ask the function to stop, if its kind supports that. Any thread may call this."""

    def abandon(self) -> None:
        """Record that no caller waits for the function any longer. Any thread may call this."""

    def thread(self) -> int | None:
        """Return the id of the thread that runs the function; None means the calling thread."""


class PlainBody:
    """Runs a plain function, which can be asked to stop only through its `ctx`."""

    __slots__ = ("_call",)

    def __init__(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> None:
        self._call = functools.partial(function, *arguments, **keywords)

    def perform(self, interrupt: Interrupt) -> Any:
        """Call the function on the calling thread."""
        return call_interruptibly(interrupt, self._call)

    def stop(self) -> None:
        """Do nothing, because the function's `ctx` tells it to stop."""

    def abandon(self) -> None:
        """Do nothing, because the body has no thread."""

    def thread(self) -> int | None:
        """Return None, because the function runs on the calling thread."""
        return None


class CoroutineBody:
    """Runs an `async def` function in the event loop of its step; stops it by cancelling its task.

    Args:
        loop: the event loop of the step.
        clock: the clock on which the calling thread waits.
        function: the function.
        arguments: its positional arguments.
        keywords: its keyword arguments.
    """

    def __init__(
        self,
        loop: StepLoop,
        clock: Clock,
        function: Callable[..., Any],
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] = _NOTHING,
    ) -> None:
        self._loop = loop
        self._call = functools.partial(function, *arguments, **keywords)
        self._part = AsyncPart(clock)

    def perform(self, interrupt: Interrupt) -> Any:
        """Run the coroutine in the loop, and wait until it ends."""
        thread, context = self._loop.start(), contextvars.copy_context()
        return self._part.perform(thread, interrupt, lambda: thread.own_task(self._main(), context))

    def stop(self) -> None:
        """Cancel the task. If it was interrupted, the exception is raised at its `await`."""
        self._part.cancel()

    def abandon(self) -> None:
        """Leave the loop to the coroutine. What follows in the step uses a new loop."""
        if self._part.thread is not None:
            self._loop.leave(self._part.thread)

    def thread(self) -> int | None:
        """Return the id of the loop's thread; None before the coroutine begins."""
        return None if self._part.thread is None else self._part.thread.ident

    async def _main(self) -> None:
        try:
            coroutine = self._call()
            value = await self._part.run(coroutine, lambda: getattr(coroutine, "cr_frame", None))
        except BaseException as error:
            self._part.end(error=error)
        else:
            self._part.end(value)


class LoopEndBody:
    """Ends the event loop of a step. The tasks that are left are cancelled and awaited."""

    def __init__(self, loop: StepLoop, clock: Clock) -> None:
        self._loop = loop
        self._thread = loop.start()
        self._clock = clock

    def perform(self, interrupt: Interrupt) -> None:
        """End the loop and wait until its thread has ended. Its tasks can be interrupted."""
        self._thread.interrupt = interrupt
        self._thread.end(self._clock)
        self._loop.leave(self._thread)

    def stop(self) -> None:
        """Do nothing, because all tasks have been cancelled already."""

    def abandon(self) -> None:
        """Do nothing, because the loop is ending."""

    def thread(self) -> int | None:
        """Return the id of the loop's thread."""
        return self._thread.ident


def body_of(function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Body:
    """Return the body that calls a plain function with these arguments."""
    return PlainBody(function, *arguments, **keywords)


def deferred_body(
    loop: StepLoop, clock: Clock, function: Callable[..., Any], /, *arguments: Any, **keywords: Any
) -> Body:
    """Return the body that calls a plain or `async def` function with these arguments."""
    if kind_of(function) is Kind.COROUTINE:
        return CoroutineBody(loop, clock, function, arguments, keywords)
    return PlainBody(function, *arguments, **keywords)
