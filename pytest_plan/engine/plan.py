"""The plan: steps in order, and how they are run (gsd: Plan)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pytest_plan.engine.definition.names import check_name
from pytest_plan.engine.definition.options import RunOptions, check_jobs
from pytest_plan.engine.definition.plan_definition import PlanDefinition
from pytest_plan.engine.definition.step import Pause, Step
from pytest_plan.engine.model.clock import Clock, SystemClock
from pytest_plan.engine.model.durations import Duration, parse_duration
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.shared.state import State
from pytest_plan.engine.shared.store import LocalStore

if TYPE_CHECKING:
    from pytest_plan.engine.environments.recovery import OwnEnvironment
    from pytest_plan.engine.execution.restore import Restorer
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.journal.null import NullJournal
    from pytest_plan.engine.model.events import Listener
    from pytest_plan.engine.model.results import PlanResult, StepResult

DEFAULT_JOBS = 8
DEFAULT_CLEANUP_LIMIT = 300.0


class Plan:
    """Ordered steps and the options they run under (gsd: NewPlan).

    Args:
        limit: the longest that the run may take, its cleanup not counted; None: no limit.
        continue_on_error: whether a failed step stops only the steps that need it.
        cleanup_limit: the longest that the whole cleanup may take.
        jobs: at most so many steps run at the same time.
        parameters: what hooks may take by name beside `ctx`, `state` and values of steps.
        clock: measures all time; None means the machine's monotonic clock.
        store: where the State is; None means in this process alone.
        journal: the folder in which runs note what they make, so that the next one cleans up
            after one that was killed; None: nothing is noted.

    Raises:
        PlanDefinitionError: an argument is unusable; the message names it.
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
        )
        self._definition = PlanDefinition(options)
        self._clock = clock or SystemClock()
        self._store = store or LocalStore(self._clock)
        self._state = State(self._store)
        self._journal = None if journal is None else Path(journal).absolute()
        self._listeners: list[Listener] = []
        self._run: Run | None = None
        self._cancelled: str | None = None

    @property
    def state(self) -> State:
        """The State that the steps share; what is set before the run is there in it."""
        return self._state

    @property
    def results(self) -> Mapping[str, StepResult]:
        """What each step has come to so far, by name; empty before the run."""
        return {} if self._run is None else self._run.result().steps

    def add_step(self, step: Step, *, name: str | None = None, **options: Any) -> Self:
        """Append a step and return the plan (gsd: AddStep).

        Args:
            step: what to run.
            name: an identifier, unique in the plan; None means `step-N`.
            options: `needs retries retry_wait retry_on timeout cleanup_timeout cleanup_when
                pause skip autouse eager`; an option that is not given is the attribute of that
                name of the step, else its default (docs/reference/steps-and-options.md).

        Raises:
            PlanDefinitionError: something is unusable or known already; the message says what.
        """
        origin = _caller()
        if self._run is not None:
            raise PlanDefinitionError(f"{origin}: a step comes too late: the plan runs already")
        number = 1 + len(self._definition.steps)
        chosen = f"step-{number}" if name is None else check_name(name, origin)
        self._definition.declare(step, chosen, options, origin)
        return self

    def add_pause(self, duration: Duration) -> Self:
        """Append a step `pause-N` that only waits, and return the plan (gsd: AddPause)."""
        origin = _caller()
        seconds = parse_duration(duration, f"{origin}: pause")
        number = 1 + sum(isinstance(known.step, Pause) for known in self._definition.steps.values())
        self._definition.declare(Pause(seconds), f"pause-{number}", {}, origin)
        return self

    def execute(self) -> PlanResult:
        """Provision, then clean up whatever happened (gsd: Execute).

        Returns:
            What every step came to; with `continue_on_error` also when steps failed.

        Raises:
            PlanDefinitionError: the plan cannot run as it is, or has run before.
            JournalError: the journal cannot be kept, or an earlier one cannot be read.
            StepError: a step failed, and not `continue_on_error`.
            PlanCancelledError: `cancel` was called.
            PlanTimeoutError: the limit has passed.
            CleanupError: nothing else went wrong, but cleanup did.
        """
        run = self._begin("execute")
        try:
            run.provision()
        finally:
            run.clean_up()
        error = run.error()
        if error is not None:
            raise error
        return run.result()

    @contextlib.contextmanager
    def provisioned(self) -> Iterator[State]:
        """Provision, run the body of `with`, then clean up whatever the body did.

        Raises as `execute`; a step that failed raises before the body. What the body raises
        stays as it is; a failure of cleanup is added to it as a note and as `cleanup_error`.
        """
        run = self._begin("provisioned")
        try:
            run.provision()
            failure = run.failure()
            if failure is not None:
                raise failure
            yield self._state
        except BaseException as error:
            run.clean_up()
            ended = run.fatal or error  # Ctrl-C during cleanup still ends the program
            run.explain(ended)
            if ended is error:
                raise
            raise ended from error
        run.clean_up()
        failure = run.error()
        if failure is not None:
            raise failure

    def cancel(self, reason: str = "the plan was cancelled") -> None:
        """Stop the plan and clean up; from any thread or signal handler, also before the run."""
        self._cancelled = reason
        if self._run is not None:
            self._run.cancel(reason)

    def _begin(self, method: str) -> Run:
        refusal = self._definition.refusal
        if refusal:
            raise PlanDefinitionError(f"plan.{method}() was called: {refusal}")
        return begin(self)


def definition_of(plan: Plan) -> PlanDefinition:
    """Return the definition of a plan, which the plugin adds to."""
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
    """Check a plan and return its one run, for the plugin to provision and clean up.

    Args:
        plan: the plan.
        artifacts: the folder for files that outlive the run; None: there is none.
        run_id: the id of the run; None: a new one.
        journal: the journal of the run; None: the plan's own, if it has one.
        scratch: the temporary folder of the run that this one continues; None: a new one.
        options: fields of `RunOptions` to replace.

    Raises:
        PlanDefinitionError: the plan cannot run as it is declared, or has run before.
    """
    if plan._run is not None:
        raise PlanDefinitionError("this plan has been executed already: a plan runs once")
    # Imported here: a worker of xdist declares plans and never runs one.
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


def _own_environment(plan: Plan, run_id: str) -> OwnEnvironment | None:
    if plan._journal is None:
        return None
    from pytest_plan.engine.environments.recovery import OwnEnvironment, recover
    from pytest_plan.engine.execution.run import revive

    def revived(restorer: Restorer, journal: NullJournal) -> Run:
        options = plan._definition.options
        return revive(restorer, options, journal, clock=plan._clock, listeners=plan._listeners)

    recover(plan._journal, plan._definition.steps, revived)
    return OwnEnvironment(plan._journal, run_id)


def _caller() -> str:
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
