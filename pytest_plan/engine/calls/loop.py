"""The event loop of a step, in which all its async hooks and deferred coroutines run.

A pool or client session that `exec` creates can therefore be closed in `cleanup`, and background
tasks continue between the hooks. The loop has its own thread. Both start with the first async
function and end with the cleanup of the step.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.calls.stopping.interrupt import Interrupt, StepInterrupted, advance
from pytest_plan.engine.model.clock import Clock, SystemClock
from pytest_plan.engine.processes.copies import call_in_copies, call_in_original, end_copy, getpid
from pytest_plan.engine.shared.log import current_log

if TYPE_CHECKING:
    import asyncio


class StepLoop:
    """The event loop of one step. It starts when it is first needed.

    Only the flow of the step uses it, so no two threads use it at the same time.
    """

    __slots__ = ("_step", "_thread")

    def __init__(self, step: str) -> None:
        self._step = step
        self._thread: LoopThread | None = None

    @property
    def is_running(self) -> bool:
        """Whether the loop has started and has not ended."""
        return self._thread is not None

    def start(self) -> LoopThread:
        """Return the running loop; start one if there is none."""
        if self._thread is None:
            self._thread = LoopThread(self._step)
        return self._thread

    def leave(self, thread: LoopThread | None = None) -> None:
        """Use a new loop from now on. The old one ends by itself as soon as its code allows it.

        Args:
            thread: do this only if the loop is the one on this thread; None means any loop.
        """
        left = thread or self._thread
        if left is self._thread:
            self._thread = None
        if left is not None:
            left.leave()


class LoopThread:
    """One event loop, and the thread on which it runs.

    If the system refuses a new thread, the loop turns on the threads that wait for its calls.

    Attributes:
        loop: the loop.
        interrupt: the interrupt of the call that waits for the loop; None between the calls.
        process: the pid of the process that runs the loop.
    """

    def __init__(self, step: str) -> None:
        import asyncio  # imported late: it takes 20 ms, and few plans have coroutines

        self.loop = asyncio.new_event_loop()
        self.loop.set_task_factory(self._make_task)
        self.loop.set_exception_handler(self._log_error)
        self.loop.time = SystemClock.now  # type: ignore[method-assign]
        self.interrupt: Interrupt | None = None
        self.process: int = getpid()
        self._log = current_log.get()
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._own_tasks: set[asyncio.Task[Any]] = set()  # asyncio refers to tasks only weakly
        self._generators = 0  # those that have begun and not ended; only the loop changes it
        self._is_left = False
        self._is_ending = False
        self._changed = threading.Condition()
        self._has_ended = False  # changes under _changed
        self._thread: threading.Thread | None = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._live,),
            name=f"plan-{step}-loop",
            daemon=True,
        )
        call_in_copies(self._end_copy)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None

    @property
    def ident(self) -> int | None:
        """The id of the thread; None if the loop has no thread."""
        return None if self._thread is None else self._thread.ident

    def call(self, function: Callable[[], object]) -> None:
        """Call `function` in the loop. Any thread may call this.

        Raises:
            RuntimeError: the loop is closed.
        """
        self.loop.call_soon_threadsafe(function)

    def own_task(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
        """Begin a task for a coroutine of the engine, which nothing may interrupt."""
        import asyncio

        task = asyncio.Task(coroutine, loop=self.loop, context=context)
        self._own_tasks.add(task)
        task.add_done_callback(self._own_tasks.discard)

    def leave(self) -> None:
        """End the loop when its code allows it, but let parked generators run their tails."""
        self._is_left = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.call(self._end_if_left)

    def end(self, clock: Clock) -> None:
        """End the loop as `asyncio.run` does: cancel the tasks that are left, and wait for them."""
        self._is_ending = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.call(self.loop.stop)
        if self._thread is None:
            self._live()
        with self._changed:
            clock.wait_for(self._changed, lambda: self._has_ended, None)

    def turn(self) -> None:
        """Turn until `stop_turning` if the loop has no thread."""
        if self._thread is None:
            self.loop.run_forever()

    def stop_turning(self) -> None:
        """End `turn`. Only the loop may call this."""
        if self._thread is None:
            self.loop.stop()

    @contextlib.contextmanager
    def generator(self) -> Generator[None, None, None]:
        """Keep the loop running for a generator, even if the step uses another loop by then."""
        self._generators += 1
        try:
            yield
        finally:
            self._generators -= 1
            self._end_if_left()

    @property
    def is_ending(self) -> bool:
        """Whether the loop is about to end."""
        return self._is_ending

    def _end_if_left(self) -> None:
        if self._is_left and not self._generators and not self._is_ending:
            self._is_ending = True
            self.loop.stop()

    def _live(self) -> None:
        import asyncio

        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.get_loop()
                while not self._is_ending and not self.loop.is_closed():
                    # SystemExit and KeyboardInterrupt of a task leave the loop. The task keeps
                    # the exception for those who await it.
                    try:
                        self.loop.run_forever()
                    except BaseException as error:
                        end_copy(self.process, error)
                self._log_failed_tasks()
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    def _end_copy(self) -> None:
        """Let the loop end this process, a forked copy, when the callback that forked it ends."""
        if self.ident == threading.get_ident():
            with contextlib.suppress(AttributeError):  # other loops finish their round first
                self.loop._ready.clear()  # type: ignore[attr-defined]
            self.loop.call_soon(os._exit, 0)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        import asyncio

        with self.interrupt or contextlib.nullcontext():
            task: asyncio.Task[Any] = asyncio.Task(_TaskCode(coroutine, self), loop=loop, **options)
            self._tasks.add(task)
        return task

    def _log_failed_tasks(self) -> None:
        """Log the errors of tasks that nobody awaited and that somebody still refers to.

        asyncio logs the others when they are collected.
        """
        for task in list(self._tasks):
            if task.done() and not task.cancelled() and getattr(task, "_log_traceback", False):
                text = "a task of the step raised, and nobody awaited it"
                error = task.exception()
                self._log_error(self.loop, {"message": text, "exception": error})

    def _log_error(self, loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
        if self._log is None:
            loop.default_exception_handler(details)
            return
        error = details.get("exception")
        import traceback  # imported late because few runs need it

        trace = [] if error is None else traceback.format_exception(error)
        self._log.write("".join([f"{details.get('message', 'error in the event loop')}\n", *trace]))


class AsyncPart:
    """One call of async code: a coroutine, or the part of an async generator to or after its yield.

    A thread of the engine waits in `perform`, while a task in the loop runs the code.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._has_ended = False  # this and the two below change under _changed
        self._value: Any = None
        self._error: BaseException | None = None
        self._interrupt: Interrupt | None = None
        self.thread: LoopThread | None = None
        # Only the coordinator increases the first; the loop changes the others.
        self._cancels_requested = 0
        self._cancels_made = 0
        self._task: asyncio.Task[Any] | None = None  # while user code runs

    def perform(self, thread: LoopThread, interrupt: Interrupt, begin: Callable[[], object]) -> Any:
        """Call `begin` in the loop, and wait until the part has ended."""
        self.thread = thread
        self._interrupt = thread.interrupt = interrupt
        thread.call(begin)
        thread.turn()
        with self._changed:
            self._clock.wait_for(self._changed, lambda: self._has_ended, None)
            error, self._error = self._error, None
        if error is not None:
            raise error
        return self._value

    def cancel(self) -> None:
        """Cancel the user code, now or as soon as it runs. Any thread may call this."""
        self._cancels_requested += 1
        if self.thread is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.thread.call(self._cancel_now)

    async def run(self, code: Any, frame: Callable[[], object]) -> Any:
        """Await user code in the current task, which this part may then cancel and interrupt.

        Args:
            code: the awaitable, with the methods of a coroutine.
            frame: a function that returns the frame of the code, or None once the code has ended.
        """
        import asyncio

        assert self._interrupt is not None
        self._task = asyncio.current_task()
        self._cancel_now()
        try:
            return await _HookCode(code, frame, self._interrupt)
        finally:
            self._forget_task()

    def end(self, value: Any = None, error: BaseException | None = None) -> None:
        """End the part with a value or an error. Only the loop may call this."""
        assert self.thread is not None
        if self.thread.interrupt is self._interrupt:
            self.thread.interrupt = None
        self.thread.stop_turning()
        with self._changed:
            self._value, self._error, self._has_ended = value, error, True
            self._changed.notify_all()

    def _cancel_now(self) -> None:
        if self._task is not None and self._cancels_made < self._cancels_requested:
            self._cancels_made = self._cancels_requested
            self._task.cancel()

    def _forget_task(self) -> None:
        # What follows in this task does not belong to this part.
        task, self._task = self._task, None
        while task is not None and task.cancelling():
            task.uncancel()


class _HookCode:
    """Awaits the code of a hook, which can be interrupted only while it runs, not while it waits.

    An interruption that comes while the code waits is thrown in at its `await`.
    """

    __slots__ = ("_code", "_frame", "_interrupt", "_process")

    def __init__(self, code: Any, frame: Callable[[], object], interrupt: Interrupt) -> None:
        self._code = code
        self._frame = frame
        self._interrupt = interrupt
        self._process = getpid()  # the hook may fork: see threads.py

    def __await__(self) -> _HookCode:
        return self

    def __iter__(self) -> _HookCode:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        """Continue the code."""
        return self._step(functools.partial(self._code.send, value))

    def throw(self, error: Any, *rest: Any) -> Any:
        """Raise an exception in the code."""
        return self._step(functools.partial(self._code.throw, error, *rest))

    def close(self) -> None:
        """Close the code."""
        self._code.close()

    def _step(self, step: Callable[[], Any]) -> Any:
        return call_in_original(self._process, functools.partial(self._interruptible_step, step))

    def _interruptible_step(self, step: Callable[[], Any]) -> Any:
        if not self._interrupt.is_wanted:
            try:
                return advance(self._interrupt, step)
            except StepInterrupted:
                if self._frame() is None:
                    raise
        return self._code.throw(StepInterrupted())


class _TaskCode(Coroutine[Any, Any, Any]):
    """The coroutine of a task that user code has created.

    The interrupt of the call that waits for the loop may also interrupt this code, because it may
    be what keeps the loop from turning. An interruption that comes while it waits is not for it.
    """

    def __init__(self, code: Any, thread: LoopThread) -> None:
        self._code = code
        self._thread = thread

    def __await__(self) -> Generator[Any, Any, Any]:
        """Return the iterator of the coroutine."""
        return self._code.__await__()  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the coroutine, such as `cr_frame`."""
        return getattr(self._code, name)

    def send(self, value: Any) -> Any:
        """Continue the coroutine."""
        return self._step(functools.partial(self._code.send, value))

    def throw(self, *error: Any) -> Any:
        """Raise an exception in the coroutine."""
        return self._step(functools.partial(self._code.throw, *error))

    def close(self) -> None:
        """Close the coroutine."""
        self._code.close()

    def _step(self, step: Callable[[], Any]) -> Any:
        step = functools.partial(self._interruptible_step, step)
        return call_in_original(self._thread.process, step)

    def _interruptible_step(self, step: Callable[[], Any]) -> Any:
        interrupt = self._thread.interrupt
        if interrupt is None or interrupt.is_wanted or interrupt.is_armed:
            return step()
        try:
            return advance(interrupt, step)
        except StepInterrupted:
            if getattr(self._code, "cr_frame", None) is None:
                raise
        return step()
