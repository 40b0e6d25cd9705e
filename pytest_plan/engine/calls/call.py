"""One call of user code: what is called, how it ended, and how it is asked to stop."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from pytest_plan.engine.calls.interrupt import Interrupt
from pytest_plan.engine.calls.scope import CallScope
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.model.stop import Stop
from pytest_plan.engine.shared.log import StepLog, current_log


class Returned(NamedTuple):
    """The call returned, or its generator yielded, this value."""

    value: Any = None


class Raised(NamedTuple):
    """The call raised."""

    error: BaseException


class Refused(Raised):
    """The call could not be made for this: none of its code ran."""

    __slots__ = ()


class Abandoned(NamedTuple):
    """The call did not stop when it had to; its thread was left behind with this stack."""

    stack: str


Ending: TypeAlias = Returned | Raised | Abandoned


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


class Call:
    """One function of one step, to be performed once.

    Attributes:
        scope: what stops it, and what it has started.
        body: the function.
        log: the log of the step.
        expires: when the executor asks it to stop, as a time of the plan's clock; None: never.
        budget: names that time.
        thread: the thread that performs it, 0 before.
        has_run: whether any user code of it may have run.
        before: called on that thread before any user code, which does not run when it raises;
            None: nothing is.
    """

    __slots__ = ("before", "body", "budget", "expires", "has_run", "log", "scope", "thread")

    def __init__(
        self, scope: CallScope, body: Body, log: StepLog, expires: float | None, budget: str
    ) -> None:
        self.scope = scope
        self.body = body
        self.log = log
        self.expires = expires
        self.budget = budget
        self.thread = 0
        self.has_run: bool = False
        self.before: Callable[[], None] | None = None

    @property
    def is_shielded(self) -> bool:
        """Whether the call goes on when the plan is cancelled or its limit passes."""
        return self.scope.hook is Hook.CLEANUP

    def perform(self) -> Ending:
        """Run the function on the calling thread."""
        try:
            self.scope.check()
            if self.before is not None and (refused := self._refused(self.before)) is not None:
                return refused
            self.has_run = True
            return Returned(contextvars.copy_context().run(self._logged))
        except BaseException as error:
            return Raised(error)

    def stop(self, stop: Stop) -> None:
        """Ask the function to stop: wake its `ctx`, cancel its task."""
        self.scope.flag.raise_(stop)
        self.body.stop()

    def _refused(self, before: Callable[[], None]) -> Refused | None:
        try:
            before()
        except Exception as error:
            return Refused(error)
        return None

    def _logged(self) -> Any:
        current_log.set(self.log)
        return self.body.perform(self.scope.mask)


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
