"""One call of one function of a step: its scope, how it ends, and the request to stop it."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from pytest_plan.engine.calls.body import Body
from pytest_plan.engine.calls.stopping.interrupt import Interrupt, call_interruptibly
from pytest_plan.engine.model.clock import Clock
from pytest_plan.engine.model.errors import StateError, describe
from pytest_plan.engine.model.outcomes import EXEC_HOOKS, Hook
from pytest_plan.engine.model.secret import current_masker
from pytest_plan.engine.model.stop import Stop
from pytest_plan.engine.processes.copies import getpid
from pytest_plan.engine.processes.process import Process
from pytest_plan.engine.processes.tree import Leftovers
from pytest_plan.engine.shared.log import StepLog, current_log
from pytest_plan.engine.shared.store import Guard

_STOPPED = (StopIteration, StopAsyncIteration)


class Returned:
    """The function returned, or its generator yielded.

    Attributes:
        value: the value that the function returned or yielded.
        prepared: what `Call.prepare` returned; None if it was not called.
    """

    __slots__ = ("prepared", "value")

    def __init__(self, value: Any = None, prepared: Any = None) -> None:
        self.value = value
        self.prepared = prepared


class Raised:
    """The function raised.

    Attributes:
        error: the exception.
        text: the class and message of the exception on one line. The thread of the call formats
            this text, because `__str__` of a user's exception is user code.
    """

    __slots__ = ("error", "text")

    def __init__(self, error: BaseException, text: str) -> None:
        self.error = error
        self.text = text


class Refused(Raised):
    """This error prevented the call. None of the user's code ran."""

    __slots__ = ()

    def __init__(self, error: Exception) -> None:
        super().__init__(error, describe(error))


class Abandoned:
    """The call did not stop when requested, so its thread was abandoned.

    Attributes:
        stack: the formatted stack of the thread at that time.
    """

    __slots__ = ("stack",)

    def __init__(self, stack: str) -> None:
        self.stack = stack


Ending: TypeAlias = Returned | Raised | Abandoned

_NONE: frozenset[int] = frozenset()


class StopFlag:
    """The request to stop one call.

    Attributes:
        stop: why the call should stop; None if no stop was requested.
    """

    def __init__(self) -> None:
        self.stop: Stop | None = None  # set once, with `condition` held; reading it needs no lock

    @property
    def condition(self) -> threading.Condition:
        """A condition that is notified when the stop is requested.

        Few calls wait or are asked to stop, so it is created when it is first used.
        """
        found: threading.Condition | None = self.__dict__.get("_condition")
        if found is None:  # another thread may create it at the same time: the first one counts
            found = self.__dict__.setdefault("_condition", threading.Condition())
        return found

    def raise_(self, stop: Stop) -> None:
        """Request the stop and wake all waiting threads; later requests keep the first reason."""
        with self.condition:
            self.stop = self.stop or stop
            self.condition.notify_all()

    def is_raised(self) -> bool:
        """Return whether the stop was requested."""
        return self.stop is not None


class CallScope(Guard):
    """The state of one call: its deadline, its stop flag, and the programs it has started.

    Attributes:
        step: the step's name.
        hook: the hook that is running.
        attempt: the number of the attempt, counted from 1.
        deadline: the time on the plan's clock by which the hook must end; None means no limit.
        reason: why cleanup runs; None in other hooks.
        flag: the request to stop the call.
        interrupt: the means to inject an exception into the thread of the hook.
        uninterrupted: a context manager that delays such an exception.
        process: the pid of the process to which the call belongs.
        left: the processes that the programs of `ctx.run` have left; None before the first program.
        wait_limit: the time on the plan's clock by which the function of `ctx.wait_until` must
            return, and the name of that limit; None means that there is none.
        processes: the programs that the hook has started and has not waited for.
    """

    def __init__(
        self,
        step: str,
        hook: Hook,
        attempt: int,
        deadline: float | None,
        reason: str | None = None,
    ) -> None:
        self.step = step
        self.attempt = attempt
        self.process: int = getpid()
        self.renew(hook, deadline, reason)
        # The ids of threads. One scope may have several abandoned calls, because undos share it.
        self._abandoned: frozenset[int] = _NONE  # replaced under the executor's lock
        self.processes: list[Process] = []  # only the call's thread changes this list

    def renew(self, hook: Hook, deadline: float | None, reason: str | None) -> None:
        """Reset the scope for another call with the same `ctx`, such as a generator's tail."""
        self.hook = hook
        self.deadline = deadline
        self.reason = reason
        self.left: Leftovers | None = None  # daemons of an earlier call may have been ended already
        self.wait_limit: tuple[float, str] | None = None
        self.flag: StopFlag = StopFlag()
        self.interrupt = self.uninterrupted = Interrupt()

    @property
    def provisions(self) -> bool:
        """Whether the call belongs to the provisioning of the step, and not to its cleanup."""
        return self.hook in EXEC_HOOKS

    def stopping(self) -> bool:
        """Return whether the call was asked to stop, or is on a thread that was abandoned."""
        return self.flag.is_raised() or self.is_abandoned()

    def pause(self, clock: Clock, seconds: float) -> bool:
        """Wait until the call must stop, for at most `seconds`; return whether it must stop.

        Raises:
            StateError: as `admit`.
        """
        self.admit()
        with self.flag.condition:
            return clock.wait_for(self.flag.condition, self.flag.is_raised, seconds)

    def check(self, cause: BaseException | None = None) -> None:
        """Raise an error if the call must stop.

        Args:
            cause: the exception that the error follows from; None means none.

        Raises:
            StateError: as `admit`.
            StepTimeoutError: the call exceeded its time limit.
            PlanTimeoutError: the plan exceeded its limit.
            PlanCancelledError: the plan was cancelled.
        """
        self.admit()
        if self.flag.stop is not None:
            error = self.flag.stop.error(self.step, self.hook, self.attempt)
            if cause is not None:
                error.__cause__ = cause
            raise error

    def abandon(self, thread: int) -> None:
        """Abandon the call on `thread`, which may not change anything from now on."""
        self._abandoned |= {thread}

    def readmit(self, thread: int) -> None:
        """Record that the abandoned call on `thread` has ended. The id may be used again."""
        self._abandoned -= {thread}

    def is_abandoned(self) -> bool:
        """Return whether the calling thread was abandoned."""
        return bool(self._abandoned) and threading.get_ident() in self._abandoned

    def admit(self) -> None:
        """Raise StateError in an abandoned thread, and in a forked copy of the process."""
        if getpid() != self.process:
            raise StateError(
                f"step {self.step!r} cannot use its ctx or the State in a forked copy of the "
                "process: only the original process can"
            )
        if self._abandoned and self.is_abandoned():
            raise StateError(
                f"step {self.step!r} was abandoned in {self.hook.value}, attempt {self.attempt}: "
                "further calls from its thread are refused"
            )


class Call:
    """One call of one function of a step. It can be performed only once.

    Attributes:
        scope: the state of the call.
        body: the body that runs the function.
        log: the log of the step.
        expires: the time on the plan's clock at which the executor asks the call to stop; None
            means never.
        budget: the name of that time limit in messages.
        is_shielded: whether the call continues if the plan is cancelled or reaches its limit.
        before: a function to call before any user code, on the thread of the call; None means
            none. If it raises an Exception, no user code runs.
        confirm: a function to call once the user's function has returned, before the call counts
            as ended; None means none.
        prepare: a function to call after that with the return value, unless the value is None;
            None means none. Both run on the thread of the call. Work that may be slow or run the
            user's code belongs in them, because flows must not block.
        thread: the id of the thread that performs the call; 0 before the call begins.
        has_run: whether user code of the call may have run.
        has_returned: whether the function has returned; `confirm` or `prepare` may still run.
    """

    __slots__ = (
        "_abandoned_on",
        "_flag",
        "_interrupt",
        "before",
        "body",
        "budget",
        "confirm",
        "expires",
        "has_returned",
        "has_run",
        "is_shielded",
        "log",
        "prepare",
        "scope",
        "thread",
    )

    def __init__(
        self,
        scope: CallScope,
        body: Body,
        log: StepLog,
        expires: float | None = None,
        budget: str = "",
        *,
        shielded: bool = False,
    ) -> None:
        self.scope = scope
        # An undo renews the scope, and a late request to stop this call must not stop the undo.
        self._flag = scope.flag
        self._interrupt = scope.interrupt
        self.body = body
        self.log = log
        self.expires = expires
        self.budget = budget
        self.is_shielded: bool = shielded or scope.hook is Hook.CLEANUP
        self.before: Callable[[], None] | None = None
        self.confirm: Callable[[], None] | None = None
        self.prepare: Callable[[Any], Any] | None = None
        self.thread = 0
        self._abandoned_on = 0
        self.has_run: bool = False
        self.has_returned: bool = False

    def perform(self) -> Ending:
        """Run the function on the calling thread; return how it ended. This never raises."""
        try:
            self.scope.check()
            if self.before is not None:
                if (refused := self._refused(self.before)) is not None:
                    return refused
                if self._flag.stop is not None:  # it came while `before` waited for the disk
                    self.scope.check()
            self.has_run = True
            return contextvars.copy_context().run(self._run)
        except BaseException as error:
            _add_users_frames(error)
            return Raised(error, _text(error, self._interrupt))

    def time_limit(self) -> tuple[float, str] | None:
        """Return when the call must stop, and the name of that limit; None means never."""
        own = None if self.expires is None else (self.expires, self.budget)
        inner = self.scope.wait_limit
        return min(own, inner) if own is not None and inner is not None else own or inner

    def stop(self, stop: Stop) -> None:
        """Ask the function to stop: wake its `ctx`, and cancel its task if there is one."""
        self._flag.raise_(stop)
        self.body.stop()

    def interrupt(self) -> None:
        """Raise an exception in the function, now or as soon as its code runs."""
        self._interrupt.inject()
        self.body.stop()  # wakes a task that waits, so that the exception reaches it

    def abandon(self, thread: int) -> None:
        """Abandon the call on `thread`. A generator that has yielded keeps its tail."""
        self._abandoned_on = thread
        self.scope.abandon(thread)
        if not self.has_returned:
            self.body.abandon()

    def came_back(self) -> None:
        """Record that the thread of an abandoned call has ended the call after all."""
        self.scope.readmit(self._abandoned_on)

    def runs_on(self) -> int:
        """Return the id of the thread that runs the user code of the call."""
        return self.thread if self.has_returned else self.body.thread() or self.thread

    def _refused(self, before: Callable[[], None]) -> Refused | None:
        try:
            before()
        except Exception as error:
            return Refused(error)
        return None

    def _run(self) -> Returned:
        current_log.set(self.log)
        current_masker.set(self.log.masker)
        interrupt = self._interrupt
        value = self.body.perform(interrupt)
        self.has_returned = True
        if self.confirm is not None:
            _call_after(interrupt, self.confirm)
        if self.prepare is None or value is None:
            return Returned(value)
        return Returned(value, _call_after(interrupt, functools.partial(self.prepare, value)))


def _call_after(interrupt: Interrupt, function: Callable[[], Any]) -> Any:
    """Call `function`, which belongs to the call but not to the hook, which `interrupt` was for."""
    return call_interruptibly(Interrupt() if interrupt.is_wanted else interrupt, function)


def _add_users_frames(error: BaseException) -> None:
    """Add the user's frames to the traceback of an error that replaces a StopIteration.

    If a generator or coroutine raises StopIteration or StopAsyncIteration, Python raises a
    RuntimeError instead, whose traceback ends with the caller, in the engine.
    """
    cause, last = error.__cause__, error.__traceback__
    if not isinstance(error, RuntimeError) or not isinstance(cause, _STOPPED) or last is None:
        return
    while last.tb_next is not None:
        last = last.tb_next
    if str(last.tb_frame.f_globals.get("__name__")).startswith("pytest_plan.engine."):
        last.tb_next = cause.__traceback__


def _text(error: BaseException, interrupt: Interrupt) -> str:
    try:
        return str(_call_after(interrupt, functools.partial(describe, error)))
    except BaseException:  # `__str__` was interrupted
        return f"{type(error).__qualname__}: <exception str() failed>"
