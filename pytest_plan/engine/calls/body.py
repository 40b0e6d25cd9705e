"""Runs a plain or `async def` function of a step, and asks it to stop.

These bodies run the function on the calling thread, which can be interrupted only while it runs
user code. Bodies for generators are in `generator.py`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pytest_plan.engine.calls.interrupt import Interrupt
from pytest_plan.engine.definition.signature import Kind, kind_of

if TYPE_CHECKING:
    import asyncio


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


def call_interruptibly(interrupt: Interrupt, function: Callable[[], Any]) -> Any:
    """Call `function` on the calling thread, and allow `interrupt` to interrupt it."""
    try:
        interrupt.arm()
        return function()
    finally:
        interrupt.disarm()


class PlainBody:
    """Runs a plain function, which can be asked to stop only through its `ctx`."""

    __slots__ = ("_arguments", "_function", "_keywords")

    def __init__(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        self._function = function
        self._arguments = arguments
        self._keywords = keywords

    def perform(self, interrupt: Interrupt) -> Any:
        """Call the function on the calling thread."""
        return call_interruptibly(
            interrupt, lambda: self._function(*self._arguments, **self._keywords)
        )

    def stop(self) -> None:
        """Do nothing, because the function's `ctx` tells it to stop."""

    def abandon(self) -> None:
        """Do nothing, because the body has no thread."""

    def thread(self) -> int | None:
        """Return None, because the function runs on the calling thread."""
        return None


class CoroutineBody:
    """Runs an `async def` function in a new event loop; stops it by cancelling its task."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        self._function = function
        self._arguments = arguments
        self._keywords = keywords
        self._cancellation = TaskCancellation()

    def perform(self, interrupt: Interrupt) -> Any:
        """Run the coroutine until it ends, on the calling thread."""
        import asyncio  # imported late: it takes 20 ms, and few plans have coroutines

        with asyncio.Runner() as runner:
            return call_interruptibly(interrupt, lambda: runner.run(self._main()))

    def stop(self) -> None:
        """Cancel the task."""
        self._cancellation.request()

    def abandon(self) -> None:
        """Do nothing, because the body has no thread."""

    def thread(self) -> int | None:
        """Return None, because the function runs on the calling thread."""
        return None

    async def _main(self) -> Any:
        self._cancellation.bind()
        return await self._function(*self._arguments, **self._keywords)


class TaskCancellation:
    """Cancels the asyncio task that runs user code, now or as soon as the task exists."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all attributes
        self._bound: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._wanted = False
        self._was_bound = False

    def bind(self) -> None:
        """Set the current task as the task to cancel; cancel it if a request has already come."""
        import asyncio

        task = asyncio.current_task()
        assert task is not None
        with self._lock:
            self._bound = (asyncio.get_running_loop(), task)
            self._was_bound = True
            wanted = self._wanted
        if wanted:
            task.cancel()

    def unbind(self) -> None:
        """Record that the user code has ended. Later requests have no effect."""
        with self._lock:
            self._bound = None
            self._wanted = False

    def request(self) -> None:
        """Cancel the user code. Any thread may call this."""
        with self._lock:
            bound = self._bound
            # A request that comes after `unbind` must not cancel the next call.
            self._wanted = bound is not None or not self._was_bound
        if bound is not None:
            # A RuntimeError means that the loop is closed, so there is nothing to cancel.
            with contextlib.suppress(RuntimeError):
                bound[0].call_soon_threadsafe(self._cancel_bound)

    def _cancel_bound(self) -> None:
        # This method and `unbind` both run in the loop, so a bound task is still running.
        with self._lock:
            bound = self._bound
        if bound is not None:
            bound[1].cancel()


def body_of(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Body:
    """Return the body that calls a plain or `async def` function with these arguments."""
    if kind_of(function) is Kind.COROUTINE:
        return CoroutineBody(function, *arguments, **keywords)
    return PlainBody(function, *arguments, **keywords)
