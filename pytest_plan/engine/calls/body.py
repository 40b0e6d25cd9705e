"""How a plain or an `async def` function of a step runs, and how it is asked to stop.

A body runs the function on the calling thread, where it can be interrupted only while user code
runs. Generators are in `generator.py`.
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

        It runs on the calling thread, or on a thread of the body while the caller waits.
        """

    def stop(self) -> None:
        """Ask the function to stop, if its kind supports that. Callable from any thread."""

    def abandon(self) -> None:
        """Note that no caller waits for the function any longer. Callable from any thread."""

    def thread(self) -> int | None:
        """Return the id of the thread that the function runs on; None: the calling thread."""


def call_interruptibly(interrupt: Interrupt, function: Callable[[], Any]) -> Any:
    """Call `function` on the calling thread, and let `interrupt` interrupt it."""
    try:
        interrupt.arm()
        return function()
    finally:
        interrupt.disarm()


class PlainBody:
    """Runs a plain function. It cannot be asked to stop, except through its `ctx`."""

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
        """Do nothing: the function learns from its `ctx` that it must stop."""

    def abandon(self) -> None:
        """Do nothing: the body has no thread."""

    def thread(self) -> int | None:
        """Return None: the function runs on the calling thread."""
        return None


class CoroutineBody:
    """Runs an `async def` function in a new event loop; stops it by cancelling its task."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        self._function = function
        self._arguments = arguments
        self._keywords = keywords
        self._cancellation = TaskCancellation()

    def perform(self, interrupt: Interrupt) -> Any:
        """Run the coroutine to its end on the calling thread."""
        import asyncio  # late: the import takes 20 ms, and most plans have no coroutines

        with asyncio.Runner() as runner:
            return call_interruptibly(interrupt, lambda: runner.run(self._main()))

    def stop(self) -> None:
        """Cancel the task."""
        self._cancellation.request()

    def abandon(self) -> None:
        """Do nothing: the body has no thread."""

    def thread(self) -> int | None:
        """Return None: the function runs on the calling thread."""
        return None

    async def _main(self) -> Any:
        self._cancellation.bind()
        return await self._function(*self._arguments, **self._keywords)


class TaskCancellation:
    """Cancels the asyncio task that runs user code, now or as soon as there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all attributes
        self._bound: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._wanted = False
        self._was_bound = False

    def bind(self) -> None:
        """Make the current task the one to cancel; cancel it if that was requested before."""
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
        """Note that the user code has ended; a request that comes later has no effect."""
        with self._lock:
            self._bound = None
            self._wanted = False

    def request(self) -> None:
        """Cancel the user code. Callable from any thread."""
        with self._lock:
            bound = self._bound
            # A request that comes after `unbind` must not cancel the next call.
            self._wanted = bound is not None or not self._was_bound
        if bound is not None:
            # A RuntimeError means that the loop is closed, so there is nothing to cancel.
            with contextlib.suppress(RuntimeError):
                bound[0].call_soon_threadsafe(self._cancel_bound)

    def _cancel_bound(self) -> None:
        # This and `unbind` both run in the loop, so the task is either still running or unbound.
        with self._lock:
            bound = self._bound
        if bound is not None:
            bound[1].cancel()


def body_of(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Body:
    """Return the body of a plain or `async def` function with these arguments."""
    if kind_of(function) is Kind.COROUTINE:
        return CoroutineBody(function, *arguments, **keywords)
    return PlainBody(function, *arguments, **keywords)
