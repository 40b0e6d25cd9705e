"""Implements `--plan-up`: provisions what the selected tests need, and keeps it without a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import pytest

from pytest_plan.engine.definition.graph import closure
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import StepResult
from pytest_plan.plugin.commands import output
from pytest_plan.plugin.commands.environments.recorded.kept import KeptEnvironment
from pytest_plan.plugin.commands.environments.recorded.table import table
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT, Settings
from pytest_plan.plugin.items.stages import Wave
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession
from pytest_plan.plugin.session.solo import Solo
from pytest_plan.plugin.xdist import roles

_GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


class Up(Solo):
    """Provisions as a run would before its first test, keeps the environment, and ends there.

    With `-n`, no worker is started; steps are provisioned for the workers that a run would have.

    Args:
        config: the config of this process.
        settings: the options.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self._workers = roles.expected_workers(config) if roles.is_controller(config) else ()
        self._is_over = False  # whether the environment has been kept

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Provision eager steps, for the workers of a run with the same options."""
        lookup.of(self._config, self._settings).workers = self._workers
        super().pytest_sessionstart(session)

    @pytest.hookimpl(specname="pytest_runtestloop", tryfirst=True)
    def pytest_runtestloop_up(self, session: pytest.Session) -> bool | None:
        """Run no tests, unless pytest itself ends the session here."""
        option = self._config.option
        is_broken = session.testsfailed and not option.continue_on_collection_errors
        return None if is_broken or not self.runs() else True

    def put_in_order(self, plan_session: PlanSession, items: list[pytest.Item]) -> list[Wave]:
        """Provision what the first stage needs; with `--plan-until`, no step waits for tests."""
        if self._settings.until is None:
            return super().put_in_order(plan_session, items)
        plan_session.declared.selection.add({})
        return []

    def provision_rest(self, plan_session: PlanSession) -> None:
        """Leave out the steps that wait for tests."""

    def clean_up(self, *, failed: bool | None = None) -> None:
        """Keep the environment, and print the variables that its steps have set."""
        plan_session = lookup.peek(self._config)
        is_open = plan_session is not None and plan_session.host.is_open
        super().clean_up(failed=failed)
        if plan_session is None or not is_open:
            return
        self._is_over = True
        if self._settings.export:
            self._export(plan_session)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, exitstatus: int) -> None:
        """Write what is up, what is not, and what to type next."""
        plan_session = lookup.peek(self._config)
        if plan_session is None or not self.runs():
            return
        say = plan_session.host.foreground.say
        if not self._due(plan_session):
            if exitstatus in _GREEN:
                say(f"nothing was provisioned: {self._why_nothing(plan_session)}", bad=True)
            return
        if missing := self._missing(plan_session):
            say(f"not up: {', '.join(missing)}", bad=True)
        if later := self._later(plan_session):
            say(f"not provisioned, because no tests run: {', '.join(later)}")
        if up := self._up(plan_session):
            self._say_what_is_up(plan_session, up)

    def _due(self, plan_session: PlanSession) -> list[str]:
        """Return the steps that should be up now: what tests need, and eager steps."""
        if not self._is_over:
            return []
        declared, known = plan_session.declared, plan_session.host.run.step_runs
        wanted = {*declared.due(), *closure(declared.eager_steps(), declared.steps)}
        return [name for name in known if name in wanted]

    def _later(self, plan_session: PlanSession) -> list[str]:
        """Return the steps that wait for tests, unless an earlier run has provisioned them."""
        declared, steps = plan_session.declared, plan_session.host.run.result().steps
        later = [name for name in steps if declared.is_later(name)]
        return [name for name in later if not _is_up(steps[name])]

    def _up(self, plan_session: PlanSession) -> list[str]:
        steps = plan_session.host.run.result().steps
        return [name for name in self._due(plan_session) if _is_up(steps[name])]

    def _missing(self, plan_session: PlanSession) -> list[str]:
        """Return the steps that should be up and are not, each with the reason."""
        steps = plan_session.host.run.result().steps
        return [
            f"{name} ({'not kept' if step.outcome.provides else step.outcome.replace('_', ' ')})"
            for name, step in ((name, steps[name]) for name in self._due(plan_session))
            if not _is_up(step) and step.outcome is not StepOutcome.SKIPPED
        ]

    def _why_nothing(self, plan_session: PlanSession) -> str:
        if not plan_session.declared.definition.steps:
            return "no steps are declared"
        why = "the selected tests need no step" if plan_session.needs else "no test was selected"
        command = launch.typed(self._config, DEFAULT_ENVIRONMENT, "--plan-up", "--plan-until")
        return f"{why}; to provision a step without tests: {command} STEP"

    def _say_what_is_up(self, plan_session: PlanSession, up: Sequence[str]) -> None:
        host = plan_session.host
        say, name = host.foreground.say, host.environment
        down = launch.typed(self._config, name, "--plan-down")
        if host.foreground.is_quiet:
            say(f"up: {', '.join(up)}; to clean up: {down}", always=True)
            return
        try:
            kept = self._kept(plan_session)
        except JournalError as error:
            say(f"the journal of environment {name!r} cannot be read: {error}", bad=True)
            return
        for line, is_dead in self._shown(plan_session, kept):
            say(line, bad=is_dead)
        say(f"to run tests on it: {launch.typed(self._config, name, '--plan-reuse')}")
        for step in [one.name for one in kept.steps if one.log or one.output][:1]:
            say(f"to see a log:       {launch.typed(self._config, name, '--plan-logs', step)}")
        say(f"to clean it up:     {down}")

    def _shown(
        self, plan_session: PlanSession, kept: KeptEnvironment
    ) -> Iterator[tuple[str, bool]]:
        """Yield lines about the environment, and whether each is about a dead step."""
        partly = "partly " if self._missing(plan_session) else ""
        yield f"environment {kept.name!r} is {partly}up", False
        shown = plan_session.host.foreground.shown
        steps = [step._replace(name=shown(step.name)) for step in kept.steps]
        for line, is_dead in table(steps, self._config.invocation_params.dir):
            yield f"  {line}", is_dead
        for step, value in kept.values():
            yield f"  {step} = {value}", False
        names = [one.name for one in kept.variables(_worker(plan_session)) if not one.obstacle]
        if names:
            yield f"  variables: {', '.join(names)} (--plan-export prints them)", False

    def _export(self, plan_session: PlanSession) -> None:
        """Print the variables of the steps that are up, without those that contain a secret."""
        say = plan_session.host.foreground.say
        if not self._up(plan_session):
            return
        try:
            variables = self._kept(plan_session).variables(_worker(plan_session))
        except JournalError as error:
            say(f"no variable can be exported: {error}", bad=True)
            return
        for one in variables:
            if one.obstacle:
                say(f"{one.name} is not exported: {one.obstacle}", bad=True)
        commands = "".join(one.command for one in variables if not one.obstacle)
        with contextlib.suppress(BrokenPipeError):  # it must not keep pytest from its end
            output.write(self._config, commands)

    def _kept(self, plan_session: PlanSession) -> KeptEnvironment:
        host = plan_session.host
        masker = host.run.facts.masker
        return KeptEnvironment(self._config, self._settings, host.environment, masker)

    def set_exit_status(self, session: pytest.Session) -> None:
        """Exit with status 0 only if everything that was asked for is up."""
        super().set_exit_status(session)
        plan_session = lookup.peek(self._config)
        if plan_session is None or session.exitstatus not in _GREEN or not self.runs():
            return
        session.exitstatus = pytest.ExitCode.OK
        if not self._due(plan_session):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        elif self._missing(plan_session):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _is_up(step: StepResult) -> bool:
    return step.outcome.provides and step.cleanup.outcome is CleanupOutcome.KEPT


def _worker(plan_session: PlanSession) -> str | None:
    """Return the worker whose variables all tests of this process would see, if there is one."""
    workers = plan_session.declared.definition.workers
    return workers[0] if len(workers) == 1 else None
