"""The plan: steps in order, and how they are run (gsd: Plan)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pytest_plan.engine.definition.graph import OWN_PARAMETERS, VALUE, link
from pytest_plan.engine.definition.names import check_name
from pytest_plan.engine.definition.options import (
    OPTION_NAMES,
    RunOptions,
    check_jobs,
    check_options,
)
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.definition.signature import hooks_of
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
        self._options = RunOptions(
            limit=None if limit is None else parse_duration(limit, "limit", zero=False),
            continue_on_error=continue_on_error,
            cleanup_limit=parse_duration(cleanup_limit, "cleanup_limit", zero=False),
            jobs=jobs,
            parameters=dict(parameters or {}),
        )
        self._clock = clock or SystemClock()
        self._store = store or LocalStore(self._clock)
        self._state = State(self._store)
        self._steps: dict[str, PlannedStep] = {}
        self._skipped: dict[str, str] = {}
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
        chosen = f"step-{1 + len(self._steps)}" if name is None else check_name(name, origin)
        self.declare(step, chosen, options, origin)
        return self

    def add_pause(self, duration: Duration) -> Self:
        """Append a step `pause-N` that only waits, and return the plan (gsd: AddPause)."""
        origin = _caller()
        seconds = parse_duration(duration, f"{origin}: pause")
        number = 1 + sum(isinstance(known.step, Pause) for known in self._steps.values())
        self.declare(Pause(seconds), f"pause-{number}", {}, origin)
        return self

    def add_listener(self, listener: Listener) -> Self:
        """Tell `listener` every event of the run, on the thread that executes the plan."""
        self._listeners.append(listener)
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
        run = self.begin()
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
        run = self.begin()
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

    @property
    def declared(self) -> Mapping[str, PlannedStep]:
        """The steps by name as they were declared, without edges."""
        return self._steps

    def linked(self) -> dict[str, PlannedStep]:
        """Return the steps by name, in their order, with their edges.

        Raises:
            PlanDefinitionError: the plan cannot run as it is.
        """
        steps = [
            step._replace(options=step.options._replace(skip=self._skipped[name]))
            if name in self._skipped
            else step
            for name, step in self._steps.items()
        ]
        return link(steps, self._options.parameters)

    def skip(self, name: str, reason: str) -> None:
        """Skip a step, and with it whatever needs it, as if it had asked for that."""
        self._skipped[name] = reason

    def extend(self) -> None:
        """Add the steps that were declared since `begin` to the run."""
        if self._run is not None:
            self._run.extend(self.linked())

    def begin(
        self,
        *,
        artifacts: Path | None = None,
        run_id: str | None = None,
        journal: NullJournal | None = None,
        scratch: Path | None = None,
        **options: Any,
    ) -> Run:
        """Check the plan and return its one run; `options` replace fields of `RunOptions`.

        Raises:
            PlanDefinitionError: the plan cannot run as it is, or has run before.
        """
        if self._run is not None:
            raise PlanDefinitionError("this plan has been executed already: a plan runs once")
        # Imported here: a worker of xdist declares plans and never runs one.
        from pytest_plan.engine.execution.run import Run, new_run_id

        run_options = self._options._replace(**options)
        self._steps = self.linked()
        run_id = run_id or new_run_id()
        own = self._own_environment(run_id)
        self._run = Run(
            self._steps,
            run_options,
            self._store,
            listeners=self._listeners,
            clock=self._clock,
            run_id=run_id,
            artifacts=artifacts,
            journal=journal if own is None else own.journal,
            scratch=scratch,
            at_end=None if own is None else own.end,
        )
        if self._cancelled is not None:
            self._run.cancel(self._cancelled)
        return self._run

    def _own_environment(self, run_id: str) -> OwnEnvironment | None:
        if self._journal is None:
            return None
        from pytest_plan.engine.environments.recovery import OwnEnvironment, recover

        recover(
            self._journal,
            self._steps,
            lambda restorer, journal: self.revive(restorer, journal, listeners=self._listeners),
        )
        return OwnEnvironment(self._journal, run_id)

    def revive(
        self,
        restorer: Restorer,
        journal: NullJournal,
        *,
        listeners: list[Listener],
        scratch: Path | None = None,
    ) -> Run:
        """Return a run of recorded steps alone, to be cleaned up; the plan itself does not run."""
        from pytest_plan.engine.execution.run import Run

        planned = restorer.planned()
        run = Run(
            planned,
            self._options._replace(limit=None),
            LocalStore(self._clock),
            listeners=listeners,
            clock=self._clock,
            journal=journal,
            scratch=scratch,
        )
        run.restore(restorer, dict.fromkeys(planned))
        return run

    def declare(
        self,
        step: Step,
        name: str,
        options: Mapping[str, Any],
        origin: str,
        scope: tuple[str, ...] = (),
    ) -> None:
        """Append a step that was declared at `origin`; see `PlannedStep` for `scope`.

        Raises:
            PlanDefinitionError: as `add_step`.
        """
        if not isinstance(step, Step):
            raise PlanDefinitionError(
                f"{origin}: {step!r} is no step; give an instance of Step or GenericStep"
            )
        if name in (*OWN_PARAMETERS, VALUE, *self._options.parameters):
            raise PlanDefinitionError(
                f"{origin}: a step cannot be called {name!r}, which hooks take as something else",
                step=name,
            )
        twin = self._steps.get(name)
        if twin is not None:
            raise PlanDefinitionError(
                f"two steps are called {name!r}: {twin.origin} and {origin}; rename one",
                step=name,
            )
        attributes = {
            option: getattr(step, option) for option in OPTION_NAMES if hasattr(step, option)
        }
        checked = check_options({**attributes, **options}, name, origin)
        hooks = hooks_of(step, name)
        self._steps[name] = PlannedStep(name, step, hooks, checked, origin, scope)


def _caller() -> str:
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
