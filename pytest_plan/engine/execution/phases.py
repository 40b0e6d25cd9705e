"""The passes over the graph of steps: forward and reverse.

The executor asks a phase which flow to run for a step, and how to handle a deadline, a
cancellation or an interrupt. All methods except `interrupted` run under the executor's lock. No
method calls user code.
"""

from __future__ import annotations

import graphlib
import itertools
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from pytest_plan.engine.execution.attempt import close, provision
from pytest_plan.engine.execution.cleanup import clean
from pytest_plan.engine.execution.flow import Flow
from pytest_plan.engine.execution.step_run import StepRun
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError, describe
from pytest_plan.engine.model.events import CleanupInterrupted, StepFinished, StopRequested
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.stop import Stop, StopKind
from pytest_plan.engine.shared.run_facts import RunFacts

INTERRUPTS_TO_LEAVE = 2  # the number of interrupts that end a cleanup
TOGETHER = 0.5  # seconds after the first interrupt during which others are part of it


class RunStatus:
    """The status of a run. It changes only under the executor's lock or on the coordinator.

    Attributes:
        step_runs: every step, by name.
        facts: the facts about the run.
        continue_on_error: if true, a failed step blocks only the steps that need it.
        stop: the request after which no further step begins; None if there is none.
        fatal: the exception to raise unchanged after cleanup; None if there is none.
        completed: the counter that numbers steps as they complete. Cleanup reverses this order.
    """

    def __init__(
        self, step_runs: Mapping[str, StepRun], facts: RunFacts, continue_on_error: bool
    ) -> None:
        self.step_runs = step_runs
        self.facts = facts
        self.continue_on_error = continue_on_error
        self.stop: Stop | None = None
        self.fatal: BaseException | None = None
        self.completed = itertools.count(1)

    def request_stop(self, stop: Stop) -> None:
        """Stop the forward phase. A later request counts only if it alone stops running steps."""
        if self.stop is None or (stop.ends_running_steps and not self.stop.ends_running_steps):
            self.stop = stop
            self.facts.store.wake()
            if stop.ends_running_steps:
                self.facts.emit(StopRequested(stop.reason, self.facts.elapsed()))

    def is_stopping(self) -> bool:
        """Return whether running steps must stop."""
        return self.stop is not None and self.stop.ends_running_steps

    def outcome(self) -> StepOutcome:
        """Return the outcome of the plan so far."""
        if self.stop is not None and self.stop.ends_plan:
            return self.stop.outcome
        failed = any(step_run.outcome.is_failure for step_run in self.step_runs.values())
        return StepOutcome.FAILED if failed else StepOutcome.SUCCEEDED

    def cleanup_reason(self, *, failed: bool) -> str:
        """Return the `ctx.reason` of a cleanup that begins now.

        Args:
            failed: whether something other than a step has failed.
        """
        if self.stop is not None and self.stop.ends_plan:
            return "timeout" if self.stop.kind is StopKind.LIMIT else "cancelled"
        has_succeeded = self.outcome() is StepOutcome.SUCCEEDED and not failed
        return "success" if has_succeeded else "failure"


class Sorter(Protocol):
    """Yields nodes of a graph so that those before a node come first, as graphlib does."""

    def is_active(self) -> bool:
        """Return whether any node is not done."""

    def get_ready(self) -> tuple[str, ...]:
        """Return the nodes that have become ready since the last call."""

    def done(self, name: str) -> None:
        """Note that a node is done."""


class Phase:
    """One pass over the graph of steps. This base class runs no step.

    Attributes:
        sorter: the prepared sorter of the graph.
        deadline: the time on the plan's clock at which the executor calls `expired`; None means
            never.
        is_cleanup: whether this is the reverse phase.
        is_left: whether the executor must return at once, without waiting for running calls.
    """

    is_cleanup = False

    def __init__(self, status: RunStatus, graph: Mapping[str, Collection[str]]) -> None:
        self._status = status
        self._step_runs = status.step_runs
        self._facts = status.facts
        self.deadline: float | None = None
        self.is_left = False
        sorter = graphlib.TopologicalSorter(graph)
        sorter.prepare()
        self.sorter: Sorter = sorter

    def priority(self, name: str) -> int:
        """Return the rank of a step. Of all steps that are ready, the lowest rank begins first."""
        raise KeyError(name)

    def begin(self, name: str) -> Flow | None:
        """Return the flow of a step, or None if there is nothing to do."""
        raise KeyError(name)

    def ended(self, name: str) -> None:
        """Handle the end of the flow of a step."""

    def expired(self) -> None:
        """Handle the deadline."""

    def cancelled(self, reason: str) -> None:
        """Handle a request to stop."""

    def signalled(self, reason: str, *, may_leave: bool) -> None:
        """Handle a signal; `may_leave` is whether a second one may end cleanup early."""
        self.cancelled(reason)

    def interrupted(self, error: BaseException) -> None:
        """Handle an exception that a signal handler raised in the coordinator."""
        raise error

    def elapsed(self) -> float:
        """Return the seconds since the run began."""
        return self._facts.elapsed()


class Forward(Phase):
    """Provisions the steps in `names`, none of which has ended, in the order of their edges.

    If fewer steps may begin than are ready, those that come first in `names` do.
    """

    def __init__(self, status: RunStatus, names: Sequence[str]) -> None:
        self._ranks = {name: rank for rank, name in enumerate(names)}
        edges = {name: status.step_runs[name].planned.edges for name in names}
        super().__init__(
            status, {name: [edge for edge in edges[name] if edge in self._ranks] for name in names}
        )
        self.deadline = status.facts.deadline

    def priority(self, name: str) -> int:
        """Return the position of the step in the given order."""
        return self._ranks[name]

    def begin(self, name: str) -> Flow | None:
        """Return the flow of a step; if the step must not run, set its outcome and return None."""
        step_run = self._step_runs[name]
        decision = self._decision(step_run)
        if decision is None:
            return self._flow(step_run)
        outcome, reason = decision
        step_run.end(outcome, self.elapsed(), reason)
        self._tell_finished(step_run)
        return None

    def ended(self, name: str) -> None:
        """Stop the plan if the outcome of the step requires it."""
        step_run = self._step_runs[name]
        self._tell_finished(step_run)
        if step_run.cause is not None and isinstance(step_run.cause, self._facts.stop_on):
            self._status.fatal = self._status.fatal or step_run.cause
            self.cancelled(f"step {name!r} raised {step_run.reason}")
        elif step_run.outcome.is_failure and (
            not (self._status.continue_on_error or step_run.planned.choice)
            or isinstance(step_run.cause, JournalError)
        ):
            self._status.request_stop(Stop(StopKind.FAILURE, f"step {name!r} failed"))

    def expired(self) -> None:
        """Stop the plan because it has reached its limit."""
        assert self.deadline is not None
        limit = format_duration(self.deadline - self._facts.began)
        self._status.request_stop(Stop(StopKind.LIMIT, f"the plan's limit of {limit} has passed"))
        self.deadline = None

    def cancelled(self, reason: str) -> None:
        """Stop the plan."""
        self._status.request_stop(Stop(StopKind.CANCEL, reason))

    def interrupted(self, error: BaseException) -> None:
        """Stop the plan, and raise `error` after cleanup."""
        self._status.fatal = self._status.fatal or error
        self.cancelled(f"interrupted by {describe(error)}")

    def _tell_finished(self, step_run: StepRun) -> None:
        if self._facts.listeners:  # otherwise the result is not needed yet
            self._facts.emit(StepFinished(step_run.result(), self.elapsed()))

    def _flow(self, step_run: StepRun) -> Flow:
        yield from provision(step_run, self._facts)
        step_run.completed = next(self._status.completed)
        yield from close(step_run, self._facts)

    def _decision(self, step_run: StepRun) -> tuple[StepOutcome, str] | None:
        """Return the outcome and reason if a step must not run; None if it must run."""
        skip = step_run.planned.options.skip
        if skip is not None:
            return StepOutcome.SKIPPED, skip
        needs = [self._step_runs[need] for need in step_run.planned.needs]
        missing = [need for need in needs if not need.provides]
        if broken := [need for need in missing if need.outcome is not StepOutcome.SKIPPED]:
            return self._broken(broken[0])
        if missing:
            return StepOutcome.SKIPPED, f"needs {missing[0].name!r}: {missing[0].reason}"
        stop = self._status.stop
        return None if stop is None else (stop.outcome, stop.reason)

    def _broken(self, need: StepRun) -> tuple[StepOutcome, str]:
        stop = self._status.stop
        if stop is not None and stop.ends_running_steps:
            return stop.outcome, stop.reason
        if need.lost is not None:
            return StepOutcome.BLOCKED, f"needs {need.name!r}: lost: {need.lost.detail}"
        what = str(need.outcome.value).replace("_", " ")
        reason = need.reason if need.outcome is StepOutcome.BLOCKED else what
        return StepOutcome.BLOCKED, f"needs {need.name!r}: {reason}"


class Reverse(Phase):
    """Cleans up every step that has begun, except those in `kept`.

    It cleans up a step after all steps that need the step or are ordered after it.
    """

    is_cleanup = True

    def __init__(
        self, status: RunStatus, reason: str, limit: float, kept: Collection[str] = ()
    ) -> None:
        self._kept = kept
        graph: dict[str, list[str]] = {name: [] for name in status.step_runs}
        for name, step_run in status.step_runs.items():
            for edge in step_run.planned.edges:
                graph[edge].append(name)
        super().__init__(status, graph)
        self._reason = reason
        self._until = status.facts.clock.now() + limit
        self._is_cancelled = False
        self._interrupts = 0
        self._interrupted_at: float | None = None  # when the first exception interrupted cleanup

    def priority(self, name: str) -> int:
        """Return a rank that puts steps that never ran first, then steps by reverse completion.

        A step that never ran takes no time, and other steps may be waiting for it.
        """
        completed = self._step_runs[name].completed
        return -completed if completed else -sys.maxsize

    def begin(self, name: str) -> Flow | None:
        """Return the flow that cleans up a step, or None if there is nothing to undo."""
        step_run = self._step_runs[name]
        if name in self._kept:
            step_run.keep()
            return None
        if not step_run.needs_cleanup():
            step_run.undo.is_closed = True
            if len(step_run.undo) == 0:  # another thread may have registered an undo just now
                return None
        return clean(step_run, self._facts, self._reason, self._until, self._lost_need(name))

    def _lost_need(self, name: str) -> str | None:
        """Return a lost step that this one needs, directly or not; None if there is none."""
        for need in self._step_runs[name].planned.needs:
            if self._step_runs[need].lost is not None:
                return need
            if (found := self._lost_need(need)) is not None:
                return found
        return None

    def ended(self, name: str) -> None:
        """Record an exception that must be raised unchanged after all cleanups."""
        for error in self._step_runs[name].cleanup.errors:
            if isinstance(error.__cause__, self._facts.stop_on):
                self._status.fatal = self._status.fatal or error.__cause__

    def cancelled(self, reason: str) -> None:
        """Report the cleanups that are unfinished, unless the plan was already cancelled."""
        if not self._is_cancelled and not self._status.is_stopping():
            self._is_cancelled = True
            self._report()

    def signalled(self, reason: str, *, may_leave: bool) -> None:
        """Report the cleanups that are unfinished; abandon them on the second signal."""
        self._interrupts += may_leave
        self._report()
        if self._interrupts >= INTERRUPTS_TO_LEAVE:
            self._leave(self._unfinished())

    def _report(self) -> None:
        self._facts.emit(CleanupInterrupted(self._unfinished(), self.elapsed()))

    def interrupted(self, error: BaseException) -> None:
        """Handle `error` as a signal, and raise it once cleanup has ended or has been abandoned.

        An interrupt that follows the first one closely is part of it.
        """
        self._status.fatal = self._status.fatal or error
        now = self.elapsed()
        if self._interrupted_at is None:
            self._interrupted_at = now
        elif now - self._interrupted_at <= TOGETHER:
            return
        self.signalled(describe(error), may_leave=True)

    def _unfinished(self) -> tuple[str, ...]:
        return tuple(
            name
            for name, step_run in self._step_runs.items()
            if step_run.cleanup.outcome is CleanupOutcome.PENDING
            or (
                step_run.cleanup.outcome is CleanupOutcome.NONE
                and step_run.needs_cleanup()
                and name not in self._kept
            )
        )

    def _leave(self, names: Collection[str]) -> None:
        self.is_left = True
        for name in names:
            step_run = self._step_runs[name]
            if step_run.cleanup.outcome is CleanupOutcome.NONE:
                step_run.begin_cleanup(self.elapsed())
            left = ("the rest of its cleanup, which was interrupted",)
            step_run.end_cleanup(CleanupOutcome.ABANDONED, self.elapsed(), left=left)
