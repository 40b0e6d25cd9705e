"""Runs the plan in the process that owns it: a solo process or the controller."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.plugin.compat import testmon_internals
from pytest_plan.plugin.compat.pytest_internals import warn
from pytest_plan.plugin.declaring.declared import DeclaredSteps
from pytest_plan.plugin.items.verdict import Verdict
from pytest_plan.plugin.main_thread.foreground import Foreground
from pytest_plan.plugin.run.files import artifacts
from pytest_plan.plugin.run.files.history import History
from pytest_plan.plugin.run.verdicts import Verdicts
from pytest_plan.plugin.run.watching import Watching

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.model.events import Listener
    from pytest_plan.engine.model.results import StepResult
    from pytest_plan.engine.processes.identity import Identity
    from pytest_plan.engine.shared.state import State
    from pytest_plan.plugin.items.handle import PlanHandle
    from pytest_plan.plugin.run.environments.environment import RunEnvironment
    from pytest_plan.plugin.run.programs import ProgramControl


def _nothing(is_over: bool) -> None:
    """Wait for nothing, because only this thread provisions steps."""


class Host:
    """Provisions the plan, answers questions about it for tests, and cleans up.

    It is the `PlanView` of a solo process and of the controller.

    Args:
        declared: the steps of this process.
        handle: the plan as tests and hooks see it.
        load_listeners: a function that registers the reports that listen to a run.

    Attributes:
        foreground: the controls of the main thread while the plugin's own code runs on it.
        output: the capture of the output of steps.
        signals: the signal handlers of this process.
        watching: the watch over what steps need while tests run.
        history: how the last runs of the steps went.
        end_other: a function that waits until another thread has provisioned what it provisions;
            its argument is whether it begins no further step.
        has_late_failures: whether a step has failed for a clone, after tests of other workers that
            need the step could run.
    """

    def __init__(
        self, declared: DeclaredSteps, handle: PlanHandle, load_listeners: Callable[[], None]
    ) -> None:
        self._declared = declared
        self._handle = handle
        self._config = declared.config
        self._load_listeners = load_listeners
        self._run: Run | None = None
        self._environment: RunEnvironment | None = None
        self._workers: list[Identity] = []
        self.foreground = Foreground(declared.config)
        self.watching = Watching(declared.config, self.foreground, self.report_failures)
        self._verdicts = Verdicts(declared, self.mask, lambda: self.watching.has_losses)
        self.history = History(declared.settings)
        self.has_late_failures = False
        self.end_other: Callable[[bool], None] = _nothing
        self.output = self.foreground.output
        self.signals = self.foreground.signals

    @property
    def run(self) -> Run:
        """The run, which must have begun."""
        assert self._run is not None
        return self._run

    def begin(self) -> Run:
        """Return the run; the first call begins it and starts the limit.

        Raises:
            pytest.UsageError: the environment is in use, its journal cannot be written, or a
                listener cannot be created.
            KeyboardInterrupt: a signal was received meanwhile.
        """
        if self._run is None:
            # An exception in between would leave an environment that nobody removes.
            with self.signals.owned():
                self._begin()
            self.signals.raise_received()
        return self.run

    @property
    def has_begun(self) -> bool:
        """Whether the run has begun."""
        return self._run is not None

    @property
    def share(self) -> dict[str, Any] | None:
        """The facts about the shared environment, for reports; None if there is none."""
        return None

    @property
    def is_open(self) -> bool:
        """Whether the run has begun and has not been cleaned up."""
        return self._run is not None and not self._run.is_cleaned and not self.is_copied

    @property
    def is_copied(self) -> bool:
        """Whether this process is a forked copy of the one that began the run."""
        return self._run is not None and self._run.facts.is_copied()

    @property
    def state(self) -> State:
        """The State as seen by tests."""
        return self._declared.plan.state

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.begin().run_id

    @property
    def environment(self) -> str:
        """The name of the environment; if it has no name, `run-` followed by the run id."""
        run = self.begin()
        return f"run-{run.run_id}" if self._environment is None else self._environment.name

    def prepare(self) -> None:
        """Import the modules that a run needs before they are needed."""
        self._load_listeners()
        import pytest_plan.engine.execution.run
        import pytest_plan.plugin.run.environments.environment
        import pytest_plan.plugin.run.hook_caller  # noqa: F401

    def ensure(self, names: Iterable[str]) -> None:
        """Return immediately: in this process, all steps are decided before the first test."""

    def begin_test(self, names: Iterable[str]) -> None:
        """Let forked copies of this process read the values of these steps and nothing else."""
        self.run.facts.store.keep_for_copies(names)

    def results(self) -> Mapping[str, StepResult]:
        """Return the results of the steps so far."""
        return self.begin().result().steps

    def remaining(self) -> float | None:
        """Return the seconds left until the limit is reached, or None if there is no limit."""
        return self.begin().remaining()

    def control(self, action: str, step: str, name: str | None) -> str:
        """Control a program that a step has started; see `PlanView.control`."""
        return self._programs.control(action, step, name)

    def has_stopped_programs(self) -> bool:
        """Return whether a test has stopped programs that are not running again."""
        return self._run is not None and bool(self._run.facts.programs.stopped())

    @cached_property
    def _programs(self) -> ProgramControl:
        from pytest_plan.plugin.run.programs import ProgramControl

        return ProgramControl(self.begin(), self.watching.lose)

    def variables(self, worker: str = "") -> Mapping[str, str]:
        """Return the environment variables that steps have set for all tests, or of a worker."""
        if self._run is None:
            return {}
        facts = self._run.facts
        return {**facts.variables.current(), **facts.instance_variables.of_worker(worker)}

    def test_variables(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return the environment variables that only tests that need one of these steps see."""
        return self.run.facts.test_variables(names)

    def refuse(self, reason: str) -> None:
        """Give `reason` as the reason why steps that have not been provisioned will not be."""
        self._verdicts.refusal = reason

    def provision(self, names: Collection[str]) -> None:
        """Run these steps and the steps that they wait for.

        Raises:
            pytest.UsageError: the environment is in use, or the journal cannot be written.
            BaseException: a step raised KeyboardInterrupt or SystemExit or called `pytest.exit`,
                or a signal was received.
        """
        run = self.open_to(names)
        with self.foreground.owned(), testmon_internals.recording(self._config):
            try:
                self.note_conftests()
                run.provision(names)
            except JournalError as error:
                raise pytest.UsageError(self.mask(str(error))) from None
        self.use_provisioned()

    def open_to(self, names: Collection[str]) -> Run:
        """Return the run once these steps can be provisioned, as `begin` does for the first ones.

        Raises:
            pytest.UsageError, KeyboardInterrupt: see `begin`.
        """
        self._declared.definition.settle()
        self.end_other(False)
        run = self.begin()
        run.extend(self._declared.definition.linked())
        self.watching.look()  # a step that needs a lost one must not begin
        if names and self._environment is not None:
            self._environment.watch.begin(run.remaining())
        return run

    def note_conftests(self) -> None:
        """Record which conftests declare the steps, for those that clean up later."""
        if self._environment is not None:
            self._environment.note_conftests()

    def use_provisioned(self) -> None:
        """Watch the steps that have succeeded, and end the session if one of them asks for it.

        Raises:
            BaseException: see `provision`.
        """
        self.say_repairs()
        self.signals.raise_received()
        if self.run.fatal is not None:
            self.foreground.raise_fatal(self.run.fatal)
        if self._environment is not None:
            self._environment.say_hidden(self.run)
        self.watching.begin(self.run)

    def guard(self, worker: Identity) -> None:
        """Make sure that a worker on this machine does not outlive this process."""
        self._workers.append(worker)
        if self._environment is not None:
            self._environment.watch.guard(worker)

    def hold(self) -> None:
        """Suspend the limit until `resume` is called."""
        self.run.clock.hold()
        if self._environment is not None:
            self._environment.watch.unlimited()

    def resume(self) -> None:
        """Resume counting time toward the limit."""
        self.run.clock.release()
        if self._environment is not None:
            self._environment.watch.begin(self.run.remaining())

    def clean_up(self, *, failed: bool = False) -> None:
        """Clean up the steps that have begun, or keep them.

        A second call does nothing, nor does a call in a forked copy of the process.

        Args:
            failed: whether tests have failed.
        """
        if self._run is None or not self.is_open:
            return
        if self._environment is not None:
            self._environment.watch.unlimited()
        if self.signals.received:
            self._run.cancel("a signal ended the session")
        self.end_other(True)
        self.watching.end()
        failed = failed or self.watching.has_losses
        with self.foreground.owned():
            self._run.clean_up(self._to_keep(failed=failed), failed=failed)
        self.say_repairs()
        if self._environment is not None:
            left = self._run.cleanup_error() is not None or self._run.result().left
            self._environment.finish(is_clean=not left, was_left=self._run.was_left)
        from pytest_plan.plugin.run import launch

        self.history.add(self._run.result().steps.values())
        key = launch.key_of(self._config)
        for line in artifacts.tidy(self._declared.settings.dir, self._run.run_id, key):
            self.foreground.say(line)
        self.report_failures()

    def report_failures(self, *, before_tests: bool = False) -> None:
        """Report to pytest the steps and cleanups that have failed since the last call.

        Args:
            before_tests: whether tests follow, which `-x` and `--maxfail` can prevent.

        Raises:
            pytest.Session.Interrupted: enough has failed, so that no test may begin.
        """
        reports = self._config.pluginmanager.get_plugin("pytest_plan_step_reports")
        if reports is not None:
            reports.hand_on(before_tests=before_tests)

    def say_repairs(self) -> None:
        """Report that the journal was lost and written again, if that has happened."""
        if self._environment is not None:
            self._environment.say_repairs()

    def _to_keep(self, *, failed: bool) -> Collection[str]:
        if self._environment is None:
            return ()
        is_bad = failed or self.has_failed() or bool(self.signals.received)
        assert self._run is not None
        return self._environment.keep(self._run, failed=is_bad or self.limit_has_passed())

    def limit_has_passed(self) -> bool:
        """Return whether the plan's limit ended the run."""
        return self._run is not None and self._run.has_passed_limit

    def has_failed(self) -> bool:
        """Return whether a step or cleanup failed or a step was lost: pytest exits with 1 then."""
        if self._run is None:
            return False
        result = self._run.result()
        return (
            result.outcome is not StepOutcome.SUCCEEDED
            or self.watching.has_losses
            or bool(result.left)
            or self._run.cleanup_error() is not None
            or (self._environment is not None and self._environment.has_failed)
        )

    def mask(self, text: str) -> str:
        """Return `text` as it may be shown: known secrets are `***`, control characters escaped."""
        return self.foreground.mask(text)

    def verdict_on(self, name: str) -> Verdict | None:
        """Return why a test that needs the step cannot run, or None if it can."""
        return self._verdicts.on(name, {} if self._run is None else self._run.step_runs)

    def look(self, *, has_failed: bool = False) -> None:
        """Notice now what has ended that steps need; see `PlanView.look`."""
        self.watching.look(has_failed=has_failed)

    def _program_variables(self, step: str) -> Mapping[str, str]:
        found = self._config.hook.pytest_plan_program_variables(config=self._config, step=step)
        return {name: value for variables in found for name, value in variables.items()}

    def _begin(self) -> None:
        """Claim the environment and begin the run, or release all that was claimed."""
        # Imported here because a worker has no run.
        self._load_listeners()
        from pytest_plan.engine.execution.run import new_run_id
        from pytest_plan.plugin.run import launch
        from pytest_plan.plugin.run.environments.environment import RunEnvironment

        declared, run_id = self._declared, new_run_id()
        launch.check_host(declared.settings)
        if declared.settings.signals:
            self.signals.install()
        environment = None
        try:
            environment = RunEnvironment(declared, self.foreground, run_id, self._workers)
            self._run = self._new_run(run_id, environment)
        except BaseException:
            if environment is not None:
                environment.abandon()
            self.signals.restore()
            raise
        # From here on, `clean_up` releases the environment.
        self._environment = environment
        self._run.facts.masker.learn(launch.key_of(self._config).given)
        self.foreground.watch(self._run)
        if not declared.definition.options.has_limits:
            self.foreground.say("a debugger is attached, so time limits do not apply")
        environment.reuse(self._run)

    def _new_run(self, run_id: str, environment: RunEnvironment) -> Run:
        from pytest_plan.engine.plan import begin, listen

        declared = self._declared
        for listener in self._listeners():
            listen(declared.plan, listener)
        refused = None if environment.is_replaced else partial(warn, self._config)
        folder = artifacts.usable_folder(declared.settings.dir, refused)
        listen(declared.plan, environment.watch.on_event)
        return begin(
            declared.plan,
            run_id=run_id,
            artifacts=folder,
            journal=environment.journal,
            scratch=environment.scratch,
            stop_on=(KeyboardInterrupt, SystemExit, pytest.exit.Exception),
            skip_on=(pytest.skip.Exception, pytest.xfail.Exception),
            program_variables=self._program_variables,
            expected=self.history.expected(),
        )

    def _listeners(self) -> list[Listener]:
        from pytest_plan.plugin.run.hook_caller import listeners

        return listeners(self._config, self._handle)
