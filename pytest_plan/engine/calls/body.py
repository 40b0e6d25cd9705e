"""body."""

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
    """The way in which a function runs."""

    def perform(self, interrupt: Interrupt) -> Any:
        """Run on the calling thread (or on one of its own, and wait); return or raise."""

    def stop(self) -> None:
        """Ask to stop, if this kind of function can be asked; from any thread."""

    def abandon(self) -> None:
        """Note that nobody waits for this any more; from any thread."""

    def thread(self) -> int | None:
        """Return the thread the function runs on, None when it is the caller's."""


def armed(interrupt: Interrupt, function: Callable[[], Any]) -> Any:
    """Call `function`; while it runs its thread may be interrupted."""
    try:
        interrupt.arm()
        return function()
    finally:
        interrupt.disarm()


class PlainBody:
    """A plain function."""

    __slots__ = ("_arguments", "_function", "_keywords")

    def __init__(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        self._function = function
        self._arguments = arguments
        self._keywords = keywords

    def perform(self, interrupt: Interrupt) -> Any:
        """Call the function here."""
        return armed(interrupt, lambda: self._function(*self._arguments, **self._keywords))

    def stop(self) -> None:
        """Do nothing: a plain function notices by its `ctx`."""

    def abandon(self) -> None:
        """Do nothing: the thread is the caller's."""

    def thread(self) -> int | None:
        """Return None: it runs on the caller's thread."""
        return None


class CoroutineBody:
    """An `async def` function, in an event loop of its own; stopped as asyncio cancels."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        self._function = function
        self._arguments = arguments
        self._keywords = keywords
        self._cancel = _Cancel()

    def perform(self, interrupt: Interrupt) -> Any:
        """Run the coroutine to its end here."""
        import asyncio  # 20 ms that a plan without coroutines does not pay

        with asyncio.Runner() as runner:
            return armed(interrupt, lambda: runner.run(self._main()))

    def stop(self) -> None:
        """Cancel the task."""
        self._cancel()

    def abandon(self) -> None:
        """Do nothing: the thread is the caller's."""

    def thread(self) -> int | None:
        """Return None: it runs on the caller's thread."""
        return None

    async def _main(self) -> Any:
        self._cancel.bind()
        return await self._function(*self._arguments, **self._keywords)


class _Cancel:
    """Cancels the task that runs a part of user code, now or as soon as there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all attributes
        self._bound: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._wanted = False
        self._was_bound = False

    def bind(self) -> None:
        """The current task may be cancelled from now on."""
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
        """The part has ended; whoever asks now comes too late."""
        with self._lock:
            self._bound = None
            self._wanted = False

    def __call__(self) -> None:
        with self._lock:
            bound = self._bound
            # Once a part has ended a request for it comes too late: the next is another call.
            self._wanted = bound is not None or not self._was_bound
        if bound is not None:
            # The loop may have closed since: then there is nothing to cancel.
            with contextlib.suppress(RuntimeError):
                bound[0].call_soon_threadsafe(self._cancel_bound)

    def _cancel_bound(self) -> None:
        # In the loop, as `unbind` is: the part that was meant either runs or is not bound.
        with self._lock:
            bound = self._bound
        if bound is not None:
            bound[1].cancel()


def body_of(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Body:
    """Return the body of a plain or `async def` function."""
    if kind_of(function) is Kind.COROUTINE:
        return CoroutineBody(function, *arguments, **keywords)
    return PlainBody(function, *arguments, **keywords)
