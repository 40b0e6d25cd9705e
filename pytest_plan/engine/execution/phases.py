"""The two passes over the graph: forward to provision, in reverse to clean up.

A phase answers what the executor asks: which flow a step gets, if any, and what a deadline, a
cancellation or an interrupt means. Its methods run with the executor's lock held, except for
`interrupted`, and call no user code.
"""

from __future__ import annotations

import graphlib
import itertools
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pytest_plan.engine.calls.body import body_of
from pytest_plan.engine.calls.call import Abandoned, Call, Ending, Raised
from pytest_plan.engine.calls.scope import CallScope
from pytest_plan.engine.execution.attempt import provision
from pytest_plan.engine.execution.cleanup import clean
from pytest_plan.engine.execution.flow import Flow, Surroundings
from pytest_plan.engine.execution.record import StepRecord
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError, describe
from pytest_plan.engine.model.events import CleanupInterrupted, StepFinished, StopRequested
from pytest_plan.engine.model.outcomes import CleanupOutcome, Hook, StepOutcome
from pytest_plan.engine.model.stop import Stop, StopKind

INTERRUPTS_TO_LEAVE = 2  # interrupts during cleanup before the rest is left
ALIVE_TIMEOUT = 30.0  # seconds for an answer of a step that has no `timeout`


@dataclass(slots=True, eq=False)
class Course:
    """Where a run stands; changes only under the executor's lock or on the coordinator.

    Attributes:
        records: every step.
        around: what the flows know of the run.
        continue_on_error: whether a failure stops only what needs the step.
        stop: why nothing new begins; None while the run goes on.
        fatal: what must be raised as it is, once cleanup has run.
        completed: how many steps have completed, to clean up in reverse.
    """

    records: Mapping[str, StepRecord]
    around: Surroundings
    continue_on_error: bool
    stop: Stop | None = None
    fatal: BaseException | None = None
    completed: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def request_stop(self, stop: Stop) -> None:
        """Stop what goes forward; the first reason stays, unless it let running steps finish."""
        if self.stop is None or (stop.ends_running_steps and not self.stop.ends_running_steps):
            self.stop = stop
            self.around.services.store.wake()
            if stop.ends_running_steps:
                self.around.emit(StopRequested(stop.reason, self.around.elapsed()))

    def is_stopping(self) -> bool:
        """Whether steps that run must stop."""
        return self.stop is not None and self.stop.ends_running_steps


class Phase:
    """What the executor asks of a pass over the graph; this one is empty.

    Attributes:
        sorter: the graph, prepared.
        deadline: when `expired` is due, as a time of the plan's clock; None: never.
        is_cleanup: whether this is the reverse phase.
        is_left: whether to return at once, leaving what still runs.
    """

    is_cleanup = False

    def __init__(self, course: Course, graph: Mapping[str, Collection[str]]) -> None:
        self._course = course
        self._records = course.records
        self._around = course.around
        self.deadline: float | None = None
        self.is_left = False
        self.sorter = graphlib.TopologicalSorter(graph)
        self.sorter.prepare()

    def priority(self, name: str) -> int:
        """Return the rank of a step among those that are ready; the lowest begins first."""
        raise KeyError(name)

    def begin(self, name: str) -> Flow | None:
        """Return the flow of a step, None when it has nothing to do."""
        raise KeyError(name)

    def ended(self, name: str) -> None:
        """Note that the flow of a step has ended."""

    def expired(self) -> None:
        """Act on the deadline."""

    def cancelled(self, reason: str) -> None:
        """Act on a request to stop."""

    def interrupted(self, error: BaseException) -> None:
        """Act on what a signal handler raised in the coordinator."""
        raise error

    def elapsed(self) -> float:
        """Return the seconds since the run began."""
        return self._around.elapsed()


class Forward(Phase):
    """Provisions `names`, none of which has ended, each after those it waits for."""

    def __init__(self, course: Course, names: Collection[str]) -> None:
        wanted = [name for name in course.records if name in names]
        self._ranks = {name: rank for rank, name in enumerate(wanted)}
        edges = {name: course.records[name].planned.edges for name in wanted}
        super().__init__(
            course, {name: [edge for edge in edges[name] if edge in names] for name in wanted}
        )
        self.deadline = course.around.deadline

    def priority(self, name: str) -> int:
        """Steps begin in the order of their declaration."""
        return self._ranks[name]

    def begin(self, name: str) -> Flow | None:
        """Run a step, or decide that it does not run."""
        record = self._records[name]
        decision = self._decision(record)
        if decision is None:
            return provision(record, self._around)
        outcome, reason = decision
        record.end(outcome, self.elapsed(), reason)
        self._around.emit(StepFinished(record.result(), self.elapsed()))
        return None

    def ended(self, name: str) -> None:
        """Rank the step among the completed ones; stop the plan if its end asks for that."""
        record = self._records[name]
        record.completed = next(self._course.completed)
        result = record.result()
        self._around.services.journal.step_ended(
            record.planned, result, record.completed, has_begun=record.has_begun
        )
        self._around.emit(StepFinished(result, self.elapsed()))
        if record.cause is not None and isinstance(record.cause, self._around.stop_on):
            self._course.fatal = self._course.fatal or record.cause
            self.cancelled(f"step {name!r} raised {describe(record.cause)}")
        elif record.outcome.is_failure and (
            not self._course.continue_on_error or isinstance(record.cause, JournalError)
        ):
            self._course.request_stop(Stop(StopKind.FAILURE, f"step {name!r} failed"))

    def expired(self) -> None:
        """Stop the plan: its limit has passed."""
        assert self.deadline is not None
        limit = format_duration(self.deadline - self._around.began)
        self._course.request_stop(Stop(StopKind.LIMIT, f"the plan's limit of {limit} has passed"))
        self.deadline = None

    def cancelled(self, reason: str) -> None:
        """Stop the plan."""
        self._course.request_stop(Stop(StopKind.CANCEL, reason))

    def interrupted(self, error: BaseException) -> None:
        """Stop the plan; the error is raised once cleanup has run."""
        self._course.fatal = self._course.fatal or error
        self.cancelled(f"interrupted by {describe(error)}")

    def _decision(self, record: StepRecord) -> tuple[StepOutcome, str] | None:
        """Return how a step ends that does not run, and why; None when it runs."""
        skip = record.planned.options.skip
        if skip is not None:
            return StepOutcome.SKIPPED, skip
        needs = [self._records[need] for need in record.planned.needs]
        missing = [need for need in needs if not need.outcome.provides]
        if broken := [need for need in missing if need.outcome is not StepOutcome.SKIPPED]:
            return self._broken(broken[0])
        if missing:
            return StepOutcome.SKIPPED, f"needs {missing[0].name!r}: {missing[0].reason}"
        stop = self._course.stop
        return None if stop is None else (stop.outcome, stop.reason)

    def _broken(self, need: StepRecord) -> tuple[StepOutcome, str]:
        stop = self._course.stop
        if stop is not None and stop.ends_running_steps:
            return stop.outcome, stop.reason
        what = str(need.outcome.value).replace("_", " ")
        reason = need.reason if need.outcome is StepOutcome.BLOCKED else what
        return StepOutcome.BLOCKED, f"needs {need.name!r}: {reason}"


class Reverse(Phase):
    """Cleans up every step that has begun, each after those that need or follow it."""

    is_cleanup = True

    def __init__(
        self, course: Course, reason: str, limit: float, kept: Collection[str] = ()
    ) -> None:
        self._kept = kept
        graph: dict[str, list[str]] = {name: [] for name in course.records}
        for name, record in course.records.items():
            for edge in record.planned.edges:
                graph[edge].append(name)
        super().__init__(course, graph)
        self._reason = reason
        self._until = course.around.services.clock.now() + limit
        self._interrupts = 0

    def priority(self, name: str) -> int:
        """What completed last is cleaned up first; what never began stands in nobody's way."""
        completed = self._records[name].completed
        return -completed if completed else -sys.maxsize

    def begin(self, name: str) -> Flow | None:
        """Clean a step up, if it has anything to take back."""
        record = self._records[name]
        if name in self._kept:
            record.keep()
            return None
        if not record.needs_cleanup():
            return None
        return clean(record, self._around, self._reason, self._until)

    def ended(self, name: str) -> None:
        """Note what must be raised as it is, once all cleanups have run."""
        for error in self._records[name].cleanup.errors:
            if isinstance(error.__cause__, self._around.stop_on):
                self._course.fatal = self._course.fatal or error.__cause__

    def cancelled(self, reason: str) -> None:
        """Say what still runs; the second time leave it."""
        self._interrupts += 1
        names = self._unfinished()
        self._around.emit(CleanupInterrupted(names, self.elapsed()))
        if self._interrupts >= INTERRUPTS_TO_LEAVE:
            self._leave(names)

    def interrupted(self, error: BaseException) -> None:
        """Go on, once; the error is raised when cleanup has ended or has been left."""
        self._course.fatal = self._course.fatal or error
        self.cancelled(describe(error))

    def _unfinished(self) -> tuple[str, ...]:
        return tuple(
            name
            for name, record in self._records.items()
            if record.cleanup.outcome is CleanupOutcome.PENDING
            or (
                record.cleanup.outcome is CleanupOutcome.NONE
                and record.needs_cleanup()
                and name not in self._kept
            )
        )

    def _leave(self, names: Collection[str]) -> None:
        self.is_left = True
        for name in names:
            record = self._records[name]
            if record.cleanup.outcome is CleanupOutcome.NONE:
                record.begin_cleanup(self.elapsed())
            left = ("interrupted before it was done",)
            record.end_cleanup(CleanupOutcome.ABANDONED, self.elapsed(), left=left)


class Probe(Phase):
    """Calls the `alive` hook of each step in `names`, all at the same time.

    Attributes:
        dead: why a step is not alive, by its name.
    """

    def __init__(self, course: Course, names: Collection[str]) -> None:
        asked = [name for name in names if Hook.ALIVE in course.records[name].planned.hooks]
        super().__init__(course, {name: () for name in asked})
        self.dead: dict[str, str] = {}

    def priority(self, name: str) -> int:
        """None goes first."""
        return 0

    def begin(self, name: str) -> Flow | None:
        """Ask the step."""
        return self._ask(self._records[name])

    def cancelled(self, reason: str) -> None:
        """Believe nobody: what has not answered counts as dead."""
        self.dead.update(dict.fromkeys(self._records, reason))
        self.is_left = True

    def _ask(self, record: StepRecord) -> Flow:
        around = self._around
        seconds = record.planned.options.timeout or ALIVE_TIMEOUT
        until = around.services.clock.now() + seconds
        scope = CallScope(record.name, Hook.ALIVE, 1, until)
        function = record.planned.hooks[Hook.ALIVE]
        keywords = around.arguments(function, scope, record)
        budget = f"the {format_duration(seconds)} it has to answer"
        body = body_of(function.function, **keywords)
        call = Call(scope, body, record.log, until, budget)
        ending: Ending = yield call
        if isinstance(ending, Abandoned) or scope.flag.stop is not None:
            self.dead[record.name] = f"its alive hook exceeded {budget}"
        elif isinstance(ending, Raised):
            self.dead[record.name] = f"its alive hook raised {describe(ending.error)}"
        elif ending.value is False:
            self.dead[record.name] = "its alive hook says no"
