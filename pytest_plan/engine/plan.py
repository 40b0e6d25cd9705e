"""`Plan`: an ordered list of steps, and the methods that run it (gsd: Plan)."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pytest_plan.engine.definition.names import check_name
from pytest_plan.engine.definition.options import DEFAULT_HOST, RunOptions, check_jobs
from pytest_plan.engine.definition.plan_definition import PlanDefinition
from pytest_plan.engine.definition.step import Pause, Step
from pytest_plan.engine.model.clock import Clock, SystemClock
from pytest_plan.engine.model.durations import Duration, parse_duration
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.processes.addresses import check_host
from pytest_plan.engine.shared.state import State
from pytest_plan.engine.shared.store import LocalStore

if TYPE_CHECKING:
    from pytest_plan.engine.environments.recovery import OwnEnvironment
    from pytest_plan.engine.execution.restore import Restorer
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.execution.script import ScriptRun
    from pytest_plan.engine.journal.null import NullJournal
    from pytest_plan.engine.model.events import Listener
    from pytest_plan.engine.model.results import PlanResult, StepResult

DEFAULT_JOBS = 8
DEFAULT_CLEANUP_LIMIT = 300.0


class Plan:
    """An ordered list of steps, with the options for running them (gsd: NewPlan).

    Args:
        limit: the maximum duration of the run, not counting its cleanup; None means no limit.
        continue_on_error: if true, a failed step stops only the steps that need it.
        cleanup_limit: the maximum duration of the whole cleanup.
        jobs: the maximum number of steps that run at the same time.
        parameters: the values that hooks can take by name, in addition to `ctx`, `state` and the
            values of steps; None means that there are none.
        host: the address of this machine under which others reach what steps start: `ctx.host`.
        clock: the clock that measures time; None means the machine's monotonic clock.
        store: the storage of the State; None means the memory of this process.
        journal: the folder for journals, which let the next run clean up after a run that was
            killed; None means that no journal is kept.

    Raises:
        PlanDefinitionError: an argument is invalid; the message names it.
    """

    __module__ = "pytest_plan"

    def __init__(
        self,
        limit: Duration | None = None,
        *,
        continue_on_error: bool = False,
        cleanup_limit: Duration = DEFAULT_CLEANUP_LIMIT,
        jobs: int = DEFAULT_JOBS,
        parameters: Mapping[str, Any] | None = None,
        host: str = DEFAULT_HOST,
        clock: Clock | None = None,
        store: LocalStore | None = None,
        journal: str | os.PathLike[str] | None = None,
    ) -> None:
        check_jobs(jobs, "jobs")
        options = RunOptions(
            limit=None if limit is None else parse_duration(limit, "limit", zero=False),
            continue_on_error=continue_on_error,
            cleanup_limit=parse_duration(cleanup_limit, "cleanup_limit", zero=False),
            jobs=jobs,
            parameters=dict(parameters or {}),
            host=host if host == DEFAULT_HOST else check_host(host, "host"),
        )
        self._definition = PlanDefinition(options)
        self._clock = clock or SystemClock()
        self._store = store or LocalStore(self._clock)
        self._state = State(self._store)
        self._journal = None if journal is None else Path(journal).absolute()
        self._listeners: list[Listener] = []
        self._run: Run | None = None
        self._script_run: ScriptRun | None = None
        self._is_beginning = threading.Lock()  # held by the thread that creates the run
        self._cancelled: str | None = None

    @property
    def state(self) -> State:
        """The State that the steps share. The run also sees values that were set before it."""
        return self._state

    @property
    def results(self) -> Mapping[str, StepResult]:
        """The result of each step so far, by name; empty before the run."""
        return {} if self._run is None else self._run.result().steps

    def add_step(self, step: Step, *, name: str | None = None, **options: Any) -> Self:
        """Append a step and return the plan (gsd: AddStep).

        Args:
            step: the step to append.
            name: the name of the step, an identifier that is unique in the plan; None means
                `step-N`.
            options: any of `needs retries retry_wait retry_on timeout cleanup_timeout cleanup_when
                pause skip autouse eager after_tests per params ids`. A missing option is taken from
                the step's attribute of the same name, or else is the default
                (docs/reference/steps-and-options.md).

        Raises:
            PlanDefinitionError: an argument is invalid, the name is already in use, or the run has
                begun. The message says which.
        """
        origin = _caller()
        if self._run is not None:
            raise PlanDefinitionError(f"{origin}: cannot add a step: the plan has already started")
        number = 1 + len(self._definition.steps)
        chosen = f"step-{number}" if name is None else check_name(name, origin)
        self._definition.declare(step, chosen, options, origin)
        return self

    def add_pause(self, duration: Duration) -> Self:
        """Append a step `pause-N` that only waits; return the plan (gsd: AddPause)."""
        origin = _caller()
        seconds = parse_duration(duration, f"{origin}: pause")
        number = 1 + sum(isinstance(known.step, Pause) for known in self._definition.steps.values())
        self._definition.declare(Pause(seconds), f"pause-{number}", {}, origin)
        return self

    def execute(self, *, signals: Iterable[int] = ()) -> PlanResult:
        """Provision all steps, then clean up whatever happened (gsd: Execute).

        On the main thread, this method handles SIGINT and the signals in `signals` while it runs,
        unless the program has its own handlers. The first signal stops the plan. A later one does
        not cut cleanup short: it prints what is still being cleaned up.

        Args:
            signals: the signals to handle in addition to SIGINT, such as `(signal.SIGTERM,)`.

        Returns:
            The result of every step. With `continue_on_error`, it is returned even if steps failed.

        Raises:
            PlanDefinitionError: the plan is invalid or has already run.
            JournalError: the journal cannot be written, or an earlier journal cannot be read.
            StepError: a step failed and `continue_on_error` is false.
            PlanCancelledError: `cancel` was called, or a signal in `signals` was received.
            KeyboardInterrupt: SIGINT was received.
            PlanTimeoutError: the run exceeded its limit.
            CleanupError: only the cleanup failed.
        """
        return self._script("execute", signals).execute()

    def provisioned(
        self, *, signals: Iterable[int] = ()
    ) -> contextlib.AbstractContextManager[State, None]:
        """Provision all steps, run the body of the `with` statement, then clean up.

        Cleanup runs whatever the body does. This method handles the same signals and raises the
        same errors as `execute`. If a step failed, it raises before the body runs. An exception of
        the body propagates unchanged; if cleanup fails as well, the exception gets a note and the
        attribute `cleanup_error`.

        A signal or a call of `cancel` ends the body with the same exception with which `execute`
        would end.

        Args:
            signals: the signals to handle in addition to SIGINT, such as `(signal.SIGTERM,)`.
        """
        return self._script("provisioned", signals)

    def cancel(self, reason: str = "the plan was cancelled") -> None:
        """Stop the plan and clean up.

        Any thread or signal handler may call this method, even before the run, and any number of
        times: only the first call counts. It never cuts cleanup short.

        Args:
            reason: the reason that reports and errors show.

        Raises:
            PlanCancelledError: this is the first call on the thread that runs the body of
                `provisioned`. A signal handler runs on that thread if it is the main thread. On
                another thread, this method returns, and the body is not interrupted;
                `provisioned` raises the error when the body has ended.
        """
        if self._cancelled is None:
            self._cancelled = reason
        if self._run is not None:
            self._run.cancel(self._cancelled)
        if self._script_run is not None:
            self._script_run.cancelled(self._cancelled)

    def _script(self, method: str, signals: Iterable[int]) -> ScriptRun:
        # Imported here because xdist workers declare plans but never run them.
        from pytest_plan.engine.execution.script import ScriptRun

        def begin_run(script: ScriptRun) -> Run:
            refusal = self._definition.refusal
            if refusal:
                raise PlanDefinitionError(f"plan.{method}() was called: {refusal}")
            run = begin(self)
            self._script_run = script
            return run

        return ScriptRun(begin_run, self._state, signals, self._listeners)


def definition_of(plan: Plan) -> PlanDefinition:
    """Return the definition of a plan, to which the plugin adds steps."""
    return plan._definition


def listen(plan: Plan, listener: Listener) -> None:
    """Call `listener` with every event of the run, on the thread that executes the plan."""
    plan._listeners.append(listener)


def begin(
    plan: Plan,
    *,
    artifacts: Path | None = None,
    run_id: str | None = None,
    journal: NullJournal | None = None,
    scratch: Path | None = None,
    **options: Any,
) -> Run:
    """Check a plan and return its only run, which the plugin provisions and cleans up.

    Args:
        plan: the plan.
        artifacts: the folder for files that outlive the run; None means that there is none.
        run_id: the id of the run; None means a new id.
        journal: the journal of the run; None means the plan's own journal, if it has one.
        scratch: the temporary folder of the earlier run that this run continues; None means a
            new folder.
        options: fields of `RunOptions` to replace.

    Raises:
        PlanDefinitionError: the plan is invalid or has already run.
    """
    with _beginning(plan):
        # Imported here because xdist workers declare plans but never run them.
        from pytest_plan.engine.execution.run import Run, new_run_id

        steps = plan._definition.linked()
        run_id = run_id or new_run_id()
        own = _own_environment(plan, run_id)
        plan._run = Run(
            steps,
            plan._definition.options._replace(**options),
            plan._store,
            listeners=plan._listeners,
            clock=plan._clock,
            run_id=run_id,
            artifacts=artifacts,
            journal=journal if own is None else own.journal,
            scratch=scratch,
            at_end=None if own is None else own.end,
        )
        if plan._cancelled is not None:
            plan._run.cancel(plan._cancelled)
        return plan._run


@contextlib.contextmanager
def _beginning(plan: Plan) -> Iterator[None]:
    """Refuse to begin a second run, even on another thread at the same time."""
    # Do not wait for the other thread, because it may be cleaning up after an earlier run.
    is_first = plan._is_beginning.acquire(blocking=False)
    try:
        if not is_first or plan._run is not None:
            raise PlanDefinitionError("this plan has been executed already: a plan runs once")
        yield
    finally:
        if is_first:
            plan._is_beginning.release()


def _own_environment(plan: Plan, run_id: str) -> OwnEnvironment | None:
    if plan._journal is None:
        return None
    from pytest_plan.engine.environments.recovery import OwnEnvironment, recover
    from pytest_plan.engine.execution.run import revive
    from pytest_plan.engine.journal.seal import Key

    def revived(restorer: Restorer, journal: NullJournal) -> Run:
        options = plan._definition.options
        return revive(restorer, options, journal, clock=plan._clock, listeners=plan._listeners)

    key = Key.of(os.environ)
    recover(plan._journal, plan._definition.steps, revived, key)
    return OwnEnvironment(plan._journal, run_id, key)


def _caller() -> str:
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
