"""The plan session of this process: the object that connects the parts of the plugin."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.definition.graph import closure
from pytest_plan.engine.definition.names import (
    StepNames,
    VisibleNames,
    unknown_step,
    without_worker,
)
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.secret import reveal
from pytest_plan.engine.shared.store import LocalStore
from pytest_plan.plugin.compat import testmon_internals
from pytest_plan.plugin.declaring.declared import DeclaredSteps
from pytest_plan.plugin.declaring.marks import any_alone, is_alone
from pytest_plan.plugin.interface import reports
from pytest_plan.plugin.interface.options import Settings
from pytest_plan.plugin.items.handle import FixtureFolders, PlanHandle
from pytest_plan.plugin.items.needs import Needs, folder_of
from pytest_plan.plugin.items.verdict import MissingPlan, PlanView, Verdict
from pytest_plan.plugin.xdist import roles

if TYPE_CHECKING:
    from pytest_plan.engine.definition.planned import PlannedStep
    from pytest_plan.plugin.items.instances import TestInstances
    from pytest_plan.plugin.items.logs import Logs, RunLogs
    from pytest_plan.plugin.items.stages import EarlyRequests, Stage, Wave
    from pytest_plan.plugin.run.environments.workers import Continued
    from pytest_plan.plugin.run.host import Host


class PlanSession:
    """The plan in this process, and the steps that its tests need.

    Args:
        config: the config of this process.
        settings: the options.

    Attributes:
        store: the store of the State. In a worker, the State is in the controller.
        declared: the steps that this process knows.
        handle: the object that the fixture `plan` returns.
        needs: the steps that each selected test needs; empty until `survey` is called.
        workers: the workers to provision for; empty means those of this run.
        early_tests: the number of tests that began before all steps had ended; None if no test
            could, because `plan_overlap` is off or there are no workers.
        early_seconds: for how long tests ran before all steps had ended.
        ended_by: the exception that has ended the session early, such as that of `pytest.exit`;
            None if there is none, or if pytest exits with a green status after it.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.store = _store(config, settings)
        self.declared = DeclaredSteps(config, settings, self.store)
        self.handle = PlanHandle(self)
        self.needs: dict[pytest.Item, tuple[str, ...]] = {}
        self.workers: tuple[str, ...] = ()
        self.early_tests: int | None = None
        self.early_seconds = 0.0
        self.ended_by: BaseException | None = None
        self._names = StepNames({})
        self._item: pytest.Item | None = None  # the test that runs, or the last one that ran
        self._fixtures: FixtureFolders | None = None
        self._finder: Needs | None = None  # None until `survey` is called
        self._early: EarlyRequests | None = None  # None if no step waits for tests
        self._has_workers = False
        self._instances: TestInstances | None = None  # None if no step has instances

    @cached_property
    def view(self) -> PlanView:
        """The plan as seen by the tests of this process; a worker sets it when it connects."""
        return MissingPlan() if roles.is_worker(self.config) else self.host

    @cached_property
    def host(self) -> Host:
        """The run of the plan; only the process that owns the plan imports it."""
        load_listeners = partial(reports.load_listeners, self.config, self.settings)
        if self.settings.share is not None:
            from pytest_plan.plugin.run.environments.sharing.host import SharedHost

            return SharedHost(self.declared, self.handle, load_listeners)
        from pytest_plan.plugin.run.host import Host

        return Host(self.declared, self.handle, load_listeners)

    @cached_property
    def continued(self) -> Continued:
        """Which workers of an earlier run the workers of this run continue."""
        from pytest_plan.plugin.run.environments.workers import Continued

        return Continued(self.config, self.settings)

    def find_workers(self) -> None:
        """Let the steps have instances for the workers of this run; a second call does nothing."""
        definition = self.declared.definition
        if self._has_workers or not definition.has_instances:
            return
        self._has_workers = True
        if roles.is_worker(self.config):
            definition.workers = (roles.worker_name(self.config),)
            return
        ids = self.workers
        if not ids and roles.is_controller(self.config):
            ids = roles.expected_workers(self.config)
        tests_are_here = not ids
        ids = ids or (roles.worker_name(self.config),)
        definition.workers = tuple(map(self.continued.by, ids))
        tests_here = definition.workers[0] if tests_are_here else None
        definition.options = definition.options._replace(worker=tests_here)
        if tests_here is not None:
            self.host.foreground.shown = partial(
                without_worker, names=definition.steps, worker=tests_here
            )

    def survey(self, items: Iterable[pytest.Item]) -> None:
        """Find the steps that the selected tests need. From now on, no step gets another name.

        Raises:
            pytest.UsageError: the plan is invalid, or a test or an option names an unknown step.
        """
        items = list(items)
        self.declared.include({folder_of(item) for item in items})
        self.find_workers()
        steps = self.declared.steps
        self.declared.check(steps)
        self.declared.definition.settle()
        self.declared.selection.rank_steps(steps)
        templates = self.declared.templates(steps)
        self._names = StepNames(templates)
        if any("/" in name for name in templates):
            self._fixtures = FixtureFolders(self.config.rootpath, templates)
            self.config.pluginmanager.register(self._fixtures, "pytest_plan_fixture_folders")
        finder = self._finder = Needs(templates, self._names, autouse=self.settings.autouse)
        self.needs = {item: finder.of(item) for item in items}
        if self.declared.definition.has_instances:
            self._choose_instances(steps, templates)
        names = {name for needs in self.needs.values() for name in needs}
        self.declared.needed = self.declared.to_run(self.declared.everywhere(names, steps), steps)
        testmon_internals.report_needs(
            self.config,
            lambda: {item.nodeid: closure(names, steps) for item, names in self.needs.items()},
        )

    def put_in_order(self, items: list[pytest.Item]) -> list[Wave]:
        """Sort surveyed tests by stage; return the waves in which they run, or [] for only one."""
        selection = self.declared.selection
        selection.add(self.needs_by_rank())
        if not selection.has_stages and not any_alone(items):
            return []
        from pytest_plan.plugin.items.stages import put_in_order

        waves = put_in_order(items, self.rank)
        if selection.has_stages:
            self.allow_early_requests()
        return waves

    def allow_early_requests(self) -> None:
        """Let a test that requests a step too early spoil nothing for the tests that come later."""
        if self._early is None:
            from pytest_plan.plugin.items.stages import EarlyRequests

            self._early = EarlyRequests()
            self.config.pluginmanager.register(self._early, "pytest_plan_early_requests")

    def needs_by_rank(self) -> dict[int, list[str]]:
        """Return the steps that the surveyed tests of each rank need."""
        needs: dict[int, set[str]] = {}
        for names in self.needs.values():
            needs.setdefault(self.declared.selection.rank(names), set()).update(names)
        return {rank: sorted(names) for rank, names in needs.items()}

    def rank(self, item: pytest.Item) -> int:
        """Return the highest rank of the steps that a surveyed test needs."""
        return self.declared.selection.rank(self.needs.get(item, ()))

    def is_late_by_plan(self, item: pytest.Item) -> bool:
        """Return whether a surveyed test is in its stage only because it needs every step."""
        if self._finder is None or not self.needs.get(item):
            return False
        explicit = self._finder.explicit(item)
        return self.declared.selection.rank(explicit) < self.rank(item)

    def begin_stage(
        self,
        stage: Stage,
        provision: Callable[[Collection[str]], None],
        gone: Collection[str] = (),
    ) -> None:
        """Provision the steps with which a stage begins, in the process that owns the plan.

        Args:
            stage: the stage.
            provision: a function that provisions steps.
            gone: the workers that have ended; nothing is provisioned for them any more.
        """
        tests = f"{stage.ended} test{'s have' if stage.ended != 1 else ' has'} ended"
        text = f"stage {stage.number} of {stage.total}: {tests}"
        self._open(stage.rank, text, provision, gone)
        self.host.report_failures(before_tests=True)

    def provision_rest(self) -> None:
        """After all tests, provision the steps that `--plan-until` asks for and no test needs."""
        if (self.declared.needed or ()) != self.declared.due() and self.host.has_begun:
            self._open(None, "all tests have ended", self.host.provision)

    def _open(
        self,
        rank: int | None,
        text: str,
        provision: Callable[[Collection[str]], None],
        gone: Collection[str] = (),
    ) -> None:
        """Provision the steps up to a rank, None means all, and say which of them are new."""
        declared = self.declared
        before, steps = declared.due(), declared.steps
        declared.selection.opened = rank
        due = [name for name in declared.due() if steps[name].worker not in gone]
        new = ", ".join(dict.fromkeys(steps[name].template for name in due if name not in before))
        self.host.foreground.say(f"{text}; provisioning {new}" if new else text)
        provision(due)

    def _choose_instances(
        self, steps: Mapping[str, PlannedStep], templates: Mapping[str, PlannedStep]
    ) -> None:
        """Let tests need instances of steps instead of steps."""
        from pytest_plan.plugin.items.instances import ParameterVariables, TestInstances

        worker = self.declared.definition.workers[0]
        self._instances = TestInstances(steps, templates, self._names, worker)
        self.needs = {
            item: self._instances.needed(item, names) for item, names in self.needs.items()
        }
        if self._instances.have_parameters:
            variables = ParameterVariables(
                lambda item: self.view.test_variables(self.needs.get(item, ()))
            )
            self.config.pluginmanager.register(variables, "pytest_plan_parameter_variables")

    def logs(self) -> RunLogs:
        """Return the logs of the run, in the process that runs the plan."""
        from pytest_plan.plugin.items.logs import RunLogs

        host, folder = self.host, self.config.invocation_params.dir
        return RunLogs(lambda: host.run.step_runs, host.mask, folder)

    def show_logs(self, logs: Logs, *, workers: int = 0) -> None:
        """Let the reports of tests show what the logs of steps have gained, if that is wanted.

        Args:
            logs: the logs of the steps.
            workers: how many workers run tests; 0 if this process is none of them.
        """
        wanted = self.settings.logs
        if wanted == "never" or not any(self.needs.values()):
            return
        from pytest_plan.plugin.items.logs import LogSections, WorkerLogSections

        kind = WorkerLogSections if workers else LogSections
        sections = kind(
            self.config,
            self.needs,
            lambda: self.declared.steps,
            logs,
            always=wanted == "always",
            others=workers > 1,
        )
        self.config.pluginmanager.register(sections, "pytest_plan_log_sections")

    @property
    def names(self) -> VisibleNames:
        """What names mean to the running test, or to a running fixture that outlives tests."""
        folder = None if self._fixtures is None else self._fixtures.current
        if folder is None and self._item is not None:
            folder = folder_of(self._item)
        return self._names.seen_from(folder)

    def value(self, full_name: str) -> Any:
        """Return a step's value for its fixture; end the test if the step has not succeeded."""
        __tracebackhide__ = True
        name = self.declared.definition.name_of(full_name) or full_name
        try:
            name = self.instance(name)
        except KeyError as error:
            pytest.fail(str(error.args[0]), pytrace=False)
        self._require(name)
        return reveal(self.view.state.get(name))

    def key(self, name: str) -> str:
        """Return the key of the State that `name` means to the running test; see `Names.key`."""
        if self._instances is None:
            return self.names.key(name)
        return self._instances.names(self._item, self.names).key(name)

    def instance(self, step: str) -> str:
        """Return the instance of a step that its name means to the running test, or the step.

        Raises:
            KeyError: it can mean several.
        """
        return step if self._instances is None else self._instances.names(self._item).key(step)

    def shown(self, key: str) -> str:
        """Return the name that means this key to the running test; see `Names.shown`."""
        if self._instances is None:
            return self.names.shown(key)
        return self._instances.names(self._item, self.names).shown(key)

    def require(self, name: str) -> None:
        """End the running test unless the step that `name` means to it has succeeded."""
        try:
            found = self.names.find(name)
        except PlanDefinitionError as error:
            pytest.fail(str(error), pytrace=False)
        if found is None:
            pytest.fail(unknown_step(name, self.declared.definition.steps), pytrace=False)
        for instance in self._meant(found):
            self._require(instance)

    def _meant(self, step: str) -> tuple[str, ...]:
        """Return the instances of a step that its name means to the running test, or the step."""
        if self._instances is None or self._item is None:
            return (step,)
        return self._instances.needed(self._item, [step])

    def why_missing(self, name: str) -> str | None:
        """Return why a step has no value yet, if it begins only after the running test."""
        if self._early is None:
            return None
        with contextlib.suppress(PlanDefinitionError):  # several steps could be meant
            found = self.names.find(name)
            verdicts = map(self.view.verdict_on, () if found is None else self._meant(found))
            return next((one.reason for one in verdicts if one is not None and one.is_early), None)
        return None

    def runs_alone(self) -> bool:
        """Return whether no other test runs while the running test of this worker does."""
        return self._item is not None and is_alone(self._item) and not roles.runs_each(self.config)

    def loss(self, item: pytest.Item) -> Verdict | None:
        """Return the verdict on a lost step that a failed test needs; None if there is none."""
        names = self.needs.get(item, ())
        if names:
            self.view.look(has_failed=True)
        return next((found for name in names if (found := self.view.verdict_on(name))), None)

    def _require(self, name: str) -> None:
        self.view.ensure(())
        self.view.look()
        verdict = self.view.verdict_on(name)
        if verdict is None:
            return
        if verdict.is_early and self._early is not None:
            self._early.note()
        verdict.fail()

    def verdict(self, item: pytest.Item) -> Verdict | None:
        """Wait until it is decided whether a test can run; return why it cannot, or None."""
        self._item = item
        names = self.needs.get(item, ())
        self.view.ensure(names)
        self.view.begin_test(names)
        missing = [verdict for name in names if (verdict := self.view.verdict_on(name))]
        blocked = [verdict for verdict in missing if not verdict.skips]
        return next(iter(blocked or missing), None)

    def needs_for_reports(self) -> Callable[[pytest.Item], tuple[str, ...]] | None:
        """Return the function that says what a test needs; None if no report lists it."""
        is_listed = any(path.suffix == ".html" for path in self.settings.report)
        return (lambda item: self.needs.get(item, ())) if is_listed else None


def _store(config: pytest.Config, settings: Settings) -> LocalStore:
    if settings.share is not None and not roles.is_worker(config):
        from pytest_plan.plugin.session import sharing

        return sharing.store_of(config)
    if not roles.is_controller(config):
        return LocalStore()
    from pytest_plan.plugin.xdist.shared_store import SharedStore

    return SharedStore()
