"""One run of a plan. It provisions steps, possibly in several calls, and cleans up once."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import queue
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_plan.engine.definition.graph import closure, longest_first
from pytest_plan.engine.definition.options import RunOptions
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.execution.coordination.executor import Executor, Inbox, emitter
from pytest_plan.engine.execution.phases import Forward, Reverse, RunStatus
from pytest_plan.engine.execution.step_run import StepRun
from pytest_plan.engine.journal.null import NullJournal
from pytest_plan.engine.model.clock import Clock, PlanClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import PlanError
from pytest_plan.engine.model.events import (
    CleanupBegan,
    Listener,
    PlanFinished,
    StepFinished,
)
from pytest_plan.engine.model.results import (
    CleanupError,
    PlanCancelledError,
    PlanResult,
    PlanTimeoutError,
    StepError,
)
from pytest_plan.engine.model.stop import Stop, StopKind
from pytest_plan.engine.shared.folders import RunFolders
from pytest_plan.engine.shared.run_facts import RunFacts
from pytest_plan.engine.shared.store import LocalStore

if TYPE_CHECKING:
    from pytest_plan.engine.execution.coordination.background import Background
    from pytest_plan.engine.execution.restore import Restorer


class Run:
    """One run of a plan. Its time limit starts when this object is created.

    Args:
        steps: the linked steps by name, in order.
        options: the options of the run.
        store: the storage of the State.
        listeners: the functions to call with every event, on the thread that runs the phases.
        clock: the clock that measures time.
        run_id: the id of the run; None means a new id.
        artifacts: the folder for files that outlive the run; None means that there is none.
        journal: the journal of the run; None means that nothing is recorded.
        scratch: the scratch folder of the run that this run continues; None means a new folder.
        at_end: a function to call after cleanup, once the journal is closed; None means none.

    Attributes:
        run_id: the id of the run.
        clock: the plan's clock.
        journal: the journal of the run.
        facts: the facts about the run.
        step_runs: every step, by name.
        listener_exceptions: the first exception of each kind that listeners raised, by its text.
    """

    def __init__(
        self,
        steps: Mapping[str, PlannedStep],
        options: RunOptions,
        store: LocalStore,
        *,
        listeners: list[Listener],
        clock: Clock,
        run_id: str | None = None,
        artifacts: Path | None = None,
        journal: NullJournal | None = None,
        scratch: Path | None = None,
        at_end: Callable[[], None] | None = None,
    ) -> None:
        self._at_end = at_end
        self._is_continuing = scratch is not None
        self.run_id = run_id or new_run_id()
        self._options = options
        self._store = store
        self._listeners = listeners
        self.clock = PlanClock(clock)
        inbox: Inbox = queue.SimpleQueue()
        self.journal = journal or NullJournal()
        self.facts = RunFacts(
            self.run_id,
            self.clock,
            store,
            self._folders(artifacts, scratch),
            self.journal,
            limit=options.limit,
            parameters=options.parameters,
            host=options.host,
            emit=emitter(inbox, listeners),
            listeners=listeners,
            skip_on=options.skip_on,
            stop_on=options.stop_on,
            program_variables=options.program_variables,
            worker=options.worker,
        )
        # The masker must know the secrets before the journal records the entries that are present.
        store.begin()
        store.on_write(self.facts.masker.learn)
        self.journal.mask_with(self.facts.masker.mask)
        store.attach_journal(self.journal)
        self.step_runs: dict[str, StepRun] = {}
        self.extend(steps)
        self._status = RunStatus(self.step_runs, self.facts, options.continue_on_error)
        self._executor = Executor(self._status, inbox, options.jobs, self.clock, listeners)
        self.listener_exceptions = self._executor.listener_exceptions
        self._left: tuple[str, ...] = ()
        self._is_cleaned = False
        atexit.register(self.clean_up)  # for scripts that exit in the body of `provisioned`

    @property
    def deadline(self) -> float | None:
        """The time on `clock` at which the run reaches its limit; None means no limit."""
        return self.facts.deadline

    @property
    def fatal(self) -> BaseException | None:
        """The exception to raise unchanged after cleanup; None if there is none."""
        return self._status.fatal

    @property
    def has_passed_limit(self) -> bool:
        """Whether the run was stopped because it reached its limit."""
        stop = self._status.stop
        return stop is not None and stop.kind is StopKind.LIMIT

    @property
    def was_left(self) -> bool:
        """Whether cleanup was interrupted and left, so another process must continue it."""
        return self._executor.was_left

    @property
    def is_cleaned(self) -> bool:
        """Whether cleanup has begun or ended."""
        return self._is_cleaned

    def remaining(self) -> float | None:
        """Return the seconds until the limit, never less than 0; None if there is no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - self.clock.now())

    def extend(self, steps: Mapping[str, PlannedStep]) -> None:
        """Add newly declared steps; do not change steps that the run already has."""
        if not self._options.has_limits:
            steps = {name: step.without_limits() for name, step in steps.items()}
        for name, step in steps.items():
            if name not in self.step_runs:
                self.step_runs[name] = self._step_run(step)
                self._store.reserve(name)
                self.facts.programs.needs[name] = step.needs

    def provision(self, names: Collection[str] | None = None) -> None:
        """Provision steps and the steps that they wait for. Steps that have ended do not run again.

        Args:
            names: the steps to provision; None means all steps.

        Raises:
            JournalError: the journal could not record the outcomes.
        """
        self._executor.run(Forward(self._status, self.due(names)))
        if self.journal.failure is None:  # a broken journal makes a step fail
            self.journal.flush()

    def due(self, names: Collection[str] | None) -> list[str]:
        """Return these steps (None: all) and those that they wait for, if they have not ended."""
        planned = {name: step_run.planned for name, step_run in self.step_runs.items()}
        wanted = closure(planned if names is None else names, planned)
        due = [name for name in planned if name in wanted and not self.step_runs[name].has_ended]
        expected, jobs = self._options.expected, self._options.jobs
        if expected is not None and 1 < jobs < len(due):
            due = longest_first(due, planned, expected)
        return due

    def background(self, told: Callable[[], None]) -> Background:
        """Return what provisions on a thread of its own; see `Background` for `told`."""
        from pytest_plan.engine.execution.coordination.background import Background

        return Background(self._executor, self._status, self.journal, told)

    def restore(self, restorer: Restorer, steps: Mapping[str, str | None]) -> None:
        """Take over steps of an earlier run before any step of this run begins.

        Args:
            restorer: the restorer of the steps.
            steps: why each step is reused, by name; None means that it is only cleaned up.
        """
        restorer.fill_state(self.facts)
        for name, reused in steps.items():
            step_run = self.step_runs[name]
            restorer.fill(step_run, self.facts, reused)
            if reused is not None:
                self.facts.emit(StepFinished(step_run.result(), 0.0))
        last = max((step_run.completed for step_run in self.step_runs.values()), default=0)
        self._status.completed = itertools.count(last + 1)

    def dead(self, names: Collection[str]) -> dict[str, str]:
        """Call the `alive` hooks of restored steps; return why steps are not alive, by name."""
        from pytest_plan.engine.execution.coordination.probe import Probe

        probe = Probe(self._status, names)
        self._executor.run(probe)
        return probe.dead

    def detach(self) -> None:
        """End the run without cleanup, because the restored steps belong to another run."""
        self._is_cleaned = True
        atexit.unregister(self.clean_up)
        for step_run in self.step_runs.values():
            step_run.loop.leave()
        self.facts.leave(kept=self._is_continuing)
        self._executor.close()

    def clean_up(self, keep: Collection[str] = (), reason: str = "", failed: bool = False) -> None:
        """Clean up every step that has begun, in reverse order, once. A forked copy does nothing.

        Args:
            keep: the steps that are not cleaned up.
            reason: the value of `ctx.reason`; "" means that the outcome of the run decides it.
            failed: whether something other than a step has failed, such as a test.
        """
        if self._is_cleaned or self.facts.is_copied() or sys.is_finalizing():
            return  # threads cannot start during finalization
        self._is_cleaned = True
        atexit.unregister(self.clean_up)
        self._executor.catch_up()
        self._note_limit()
        self._store.close()
        reason = reason or self._status.cleanup_reason(failed=failed)
        due = [name for name, step_run in self.step_runs.items() if step_run.needs_cleanup()]
        if due or keep:
            self.facts.emit(CleanupBegan(len(set(due) - set(keep)), reason, self.facts.elapsed()))
            self._executor.run(Reverse(self._status, reason, self._options.cleanup_limit, keep))
        for step_run in self.step_runs.values():
            step_run.undo.is_closed = True
        self._left = self.facts.leave(kept=bool(keep))
        self.facts.emit(PlanFinished(self.result(), self.facts.elapsed()))
        self._executor.close()
        self.journal.close()
        if self._at_end is not None:
            self._at_end()

    def cancel(self, reason: str) -> None:
        """Request a stop. Any thread or signal handler may call this. Cleanup is not cut short."""
        masked = self.facts.masker.mask(reason)
        self._executor.request(lambda phase: phase.cancelled(masked))

    def end_provisioning(self, reason: str, *, at_once: bool = False) -> None:
        """Begin no further step; with `at_once`, stop those that run. Any thread may call this.

        The outcome of the plan does not change.
        """
        stop = Stop(StopKind.END if at_once else StopKind.FAILURE, self.facts.masker.mask(reason))
        self._executor.request(lambda phase: self._status.request_stop(stop))

    def interrupt(self, reason: str, *, may_leave: bool) -> None:
        """Request a stop because of a signal; with `may_leave`, the second one ends cleanup."""
        self._executor.request(lambda phase: phase.signalled(reason, may_leave=may_leave))

    def catch_up(self) -> None:
        """Handle requests that came while no phase was running."""
        self._executor.catch_up()

    def result(self) -> PlanResult:
        """Return the results so far."""
        with self._executor.unchanging():
            steps = {name: step_run.result() for name, step_run in self.step_runs.items()}
        stop = self._status.stop
        return PlanResult(
            run_id=self.run_id,
            outcome=self._status.outcome(),
            reason=None if stop is None else stop.reason,
            seconds=self.facts.elapsed(),
            limit=self._options.limit,
            steps=steps,
            left=self._left,
            listener_errors=tuple(self._executor.listener_errors),
        )

    def failure(self) -> BaseException | None:
        """Return why provisioning failed: a fatal exception, a stop, or the first failed step.

        Return None if it did not fail.
        """
        return self._status.fatal or self._stop_error() or self._first_failure()

    def error(self) -> BaseException | None:
        """Return the error for `execute` to raise: from provisioning, or else cleanup, or None."""
        failure = self.failure()
        if failure is None:
            return self.cleanup_error()
        self.explain(failure)
        return failure

    def explain(self, error: BaseException) -> None:
        """Add the result of the run and the error of its cleanup to `error`."""
        cleanup = self.cleanup_error()
        if isinstance(error, (StepError, PlanCancelledError, PlanTimeoutError)):
            error.result = self.result()
        if cleanup is None:
            return
        error.add_note(f"and {cleanup}")
        with contextlib.suppress(AttributeError):  # some exceptions refuse new attributes
            error.cleanup_error = cleanup  # type: ignore[attr-defined]

    def cleanup_error(self) -> CleanupError | None:
        """Return all failures of cleanup as one error, or None if there are none."""
        step_runs = self.step_runs.values()
        errors = [error for step_run in step_runs for error in step_run.cleanup_errors()]
        if not errors:
            return None
        names = ", ".join(dict.fromkeys(repr(error.step) for error in errors))
        group = CleanupError(f"the cleanup of {names} failed", errors)
        group.result = self.result()
        return group

    def _first_failure(self) -> StepError | None:
        if self._options.continue_on_error:
            return None
        failed = [step_run for step_run in self.step_runs.values() if step_run.error is not None]
        if not failed:
            return None
        return min(failed, key=lambda step_run: step_run.completed).error

    def _stop_error(self) -> PlanError | None:
        stop = self._status.stop
        if stop is None or not stop.ends_plan:
            return None
        kind = PlanTimeoutError if stop.kind is StopKind.LIMIT else PlanCancelledError
        ended = sum(step_run.outcome.provides for step_run in self.step_runs.values())
        return kind(
            f"{stop.reason}: {ended} of {len(self.step_runs)} steps had succeeded; "
            "the steps that had begun were cleaned up"
        )

    def _note_limit(self) -> None:
        """Stop the plan if it reached its limit after provisioning, for example during tests."""
        deadline, limit = self.deadline, self._options.limit
        if deadline is not None and limit is not None and self.clock.now() >= deadline:
            reason = f"the plan's limit of {format_duration(limit)} has passed"
            self._status.request_stop(Stop(StopKind.LIMIT, reason))

    def _step_run(self, step: PlannedStep) -> StepRun:
        return StepRun(step, self.facts.log_of(step.name))

    def _folders(self, artifacts: Path | None, scratch: Path | None) -> RunFolders:
        folder = None if artifacts is None else artifacts / self.run_id
        return RunFolders(None if folder is None else lambda: folder, self.journal.scratch, scratch)


def revive(
    restorer: Restorer,
    options: RunOptions,
    journal: NullJournal,
    *,
    clock: Clock,
    listeners: list[Listener],
    scratch: Path | None = None,
) -> Run:
    """Return a run of recorded steps only, to clean them up or to check whether they are alive.

    Args:
        restorer: the restorer of the recorded steps.
        options: the options of the plan of the declared steps. Its limit does not apply.
        journal: the journal of the run.
        clock: the clock that measures time.
        listeners: the functions to call with every event.
        scratch: the scratch folder of the recorded run; None means a new folder.
    """
    planned = restorer.planned()
    run = Run(
        planned,
        options._replace(limit=None),
        LocalStore(clock),
        listeners=listeners,
        clock=clock,
        journal=journal,
        scratch=scratch,
    )
    run.restore(restorer, dict.fromkeys(planned))
    return run


def new_run_id() -> str:
    """Return an id that no other run has."""
    return os.urandom(4).hex()
