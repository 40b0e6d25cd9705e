"""One call of user code: what is called, how it ended, and how it is asked to stop."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from pytest_plan.engine.calls.body import Body
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
