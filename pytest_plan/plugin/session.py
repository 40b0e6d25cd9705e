"""The plan of this process: one object in `config.stash`, everything hangs off it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pytest

from pytest_plan.engine.errors import PlanDefinitionError, describe
from pytest_plan.engine.events import (
    Event,
    PlanFinished,
    StepCleaned,
    StepFinished,
    StepStarted,
)
from pytest_plan.engine.graph import closure
from pytest_plan.engine.outcomes import StepOutcome
from pytest_plan.engine.plan import DEFAULT_CLEANUP_LIMIT, DEFAULT_JOBS, Plan
from pytest_plan.engine.planned import PlannedStep, suggest
from pytest_plan.engine.run import Run
from pytest_plan.engine.secret import reveal
from pytest_plan.plugin import artifacts
from pytest_plan.plugin.declare import Declaration
from pytest_plan.plugin.handle import PlanHandle
from pytest_plan.plugin.needs import needs_of
from pytest_plan.plugin.options import Settings, settings
from pytest_plan.plugin.output import StepOutput

_KEY: pytest.StashKey[PlanSession] = pytest.StashKey()
# Known before pytest knows its fixtures, when eager steps are provisioned.
_ALWAYS_FIXTURES = frozenset(
    {"request", "tmp_path", "tmp_path_factory", "monkeypatch", "capsys", "pytestconfig"}
)
_REPORTS = ("terminal", "show")
_PARAMETERS = ("ctx", "state", "config", "value", "plan", "request")


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Why a test cannot run.

    Attributes:
        skips: whether it is skipped; else it is blocked.
        reason: in words.
        steps: the steps at fault.
        is_expected: whether the step called `pytest.xfail`.
    """

    skips: bool
    reason: str
    steps: tuple[str, ...]
    is_expected: bool = False


def of(config: pytest.Config, options: Settings | None = None) -> PlanSession:
    """Return the plan session of this process, made at the first call."""
    session = config.stash.get(_KEY, None)
    if session is None:
        from pytest_plan.plugin.solo import Solo

        session = PlanSession(config, options or settings(config))
        config.stash[_KEY] = session
        # By name: reports know the plugin, the plugin does not know reports.
        for report in _REPORTS:
            config.pluginmanager.import_plugin(f"pytest_plan.report.{report}")
        config.pluginmanager.register(Solo(session), "pytest_plan_solo")
    return session


class PlanSession:
    """The plan of this process, what its tests need, and how it went."""

    def __init__(self, config: pytest.Config, options: Settings) -> None:
        self.config = config
        self.settings = options
        self.plan = Plan(
            limit=options.limit,
            continue_on_error=options.continue_on_error,
            cleanup_limit=options.cleanup_limit or DEFAULT_CLEANUP_LIMIT,
            jobs=options.jobs or DEFAULT_JOBS,
            parameters={"config": config},
        )
        for name in options.skip:
            self.plan.skip(name, f"--plan-skip {name}")
        self.handle = PlanHandle(self)
        self.declarations: dict[str, Declaration] = {}
        self.output = StepOutput(config)
        self.needs: dict[pytest.Item, tuple[str, ...]] = {}
        self.needed: tuple[str, ...] = ()
        self._run: Run | None = None

    @property
    def run(self) -> Run:
        """The run of the plan, begun at the first call; from then on the limit counts."""
        if self._run is None:
            self._run = self._begin()
        return self._run

    @property
    def has_begun(self) -> bool:
        """Whether there is a run."""
        return self._run is not None

    @property
    def steps(self) -> Mapping[str, PlannedStep]:
        """Every step by name, linked.

        Raises:
            pytest.UsageError: the plan cannot run as it is written.
        """
        try:
            return self.plan.linked()
        except PlanDefinitionError as error:
            raise pytest.UsageError(self._explain(error)) from None

    def add(self, declaration: Declaration) -> None:
        """Add a declared step; raise PlanDefinitionError when it is unusable."""
        self._refuse_name(declaration.name, declaration.origin)
        self.plan.declare(
            declaration.step,
            declaration.name,
            declaration.options,
            declaration.origin,
            declaration.scope,
        )
        self.declarations[declaration.name] = declaration

    def declare_added(self) -> list[Declaration]:
        """Return declarations for the steps that code has added under a name of their own."""
        added = []
        for name, step in self.plan.linked().items():
            if name in self.declarations or not name.isidentifier():
                continue
            self._refuse_name(name, step.origin)
            file, _, line = step.origin.rpartition(":")
            doc = type(step.step).__doc__
            declaration = Declaration(name, step.step, {}, file, int(line), (), doc)
            added.append(declaration)
            self.declarations[name] = declaration
        return added

    def survey(self, items: Iterable[pytest.Item]) -> None:
        """Find out what the selected tests need.

        Raises:
            pytest.UsageError: the plan or a test names something that does not exist.
        """
        steps = self.steps
        self._refuse_hiding(steps)
        self._refuse_unknown(steps)
        autouse = self.settings.autouse
        self.needs = {item: needs_of(item, steps, autouse=autouse) for item in items}
        wanted = closure({name for names in self.needs.values() for name in names}, steps)
        if self.settings.until is not None:
            wanted &= closure({self.settings.until}, steps)
        self.needed = tuple(name for name in steps if name in wanted)
        self.plan.extend()

    def provision(self, names: Collection[str]) -> None:
        """Run these steps and what they wait for; what ends the session is raised.

        Raises:
            BaseException: `pytest.exit`, KeyboardInterrupt or SystemExit came from a step.
        """
        with self.output:
            self.run.provision(names)
        if self.run.fatal is not None:
            raise self.run.fatal

    def eager_steps(self) -> list[str]:
        """Return the steps to provision before collection."""
        return [
            name
            for name, step in self.plan.declared.items()
            if step.options.eager or self.settings.eager
        ]

    def clean_up(self) -> None:
        """Clean up what has begun; a second call does nothing."""
        if self._run is None or self._run.is_cleaned:
            return
        with self.output:
            self._run.clean_up()

    def has_failed(self) -> bool:
        """Whether a step or a cleanup failed, so that the run cannot be green."""
        if self._run is None:
            return False
        result = self._run.result()
        return (
            result.outcome is not StepOutcome.SUCCEEDED
            or bool(result.left)
            or self._run.cleanup_error() is not None
        )

    def value(self, name: str) -> Any:
        """Return the value of a step for its fixture; fail the test when there is none."""
        self.require(name)
        return reveal(self.plan.state.get(name))

    def require(self, name: str) -> None:
        """Fail or skip the running test unless the step has succeeded."""
        if name not in self.steps:
            pytest.fail(f"there is no step {name!r}{suggest(name, self.steps)}", pytrace=False)
        verdict = self._verdict_on(name)
        if verdict is not None:
            apply(verdict)

    def verdict(self, item: pytest.Item) -> Verdict | None:
        """Return why a test cannot run, None when it can."""
        verdicts = [self._verdict_on(name) for name in self.needs.get(item, ())]
        missing = [verdict for verdict in verdicts if verdict is not None]
        blocked = [verdict for verdict in missing if not verdict.skips]
        return next(iter(blocked or missing), None)

    def _verdict_on(self, name: str) -> Verdict | None:
        record = self._run.records.get(name) if self._run is not None else None
        if record is None or record.outcome is StepOutcome.PENDING:
            if self.settings.until is not None:
                reason = f"step {name!r} was not provisioned: --plan-until {self.settings.until}"
                return Verdict(skips=True, reason=reason, steps=(name,))
            return Verdict(
                skips=False,
                reason=f"step {name!r} was not provisioned: "
                f"mark the test with @pytest.mark.plan({name!r})",
                steps=(name,),
            )
        if record.outcome.provides:
            return None
        root = self._root_cause(name)
        if record.outcome is StepOutcome.SKIPPED:
            expected = isinstance(root.cause, pytest.xfail.Exception)
            reason = f"plan step {root.name!r}: {root.reason}"
            return Verdict(True, reason, (root.name,), is_expected=expected)
        what = root.outcome.value.replace("_", " ")
        said = "" if root.error is None else f": {describe(root.error.__cause__ or root.error)}"
        reason = self.mask(f"plan step {root.name!r} {what}{said or f': {root.reason}'}")
        return Verdict(skips=False, reason=reason, steps=(root.name,))

    def _root_cause(self, name: str) -> Any:
        records = self.run.records
        record = records[name]
        while needed := [
            need
            for need in record.planned.needs
            if not records[need].outcome.provides
            and (record.outcome is StepOutcome.SKIPPED)
            == (records[need].outcome is StepOutcome.SKIPPED)
        ]:
            record = records[needed[0]]
        return record

    def mask(self, text: str) -> str:
        """Return `text` with every known secret replaced by `***`."""
        return text if self._run is None else self._run.services.masker.mask(text)

    def _begin(self) -> Run:
        for listener in self.config.hook.pytest_plan_make_listener(config=self.config):
            self.plan.add_listener(listener)
        self.plan.add_listener(self._tell_hooks)
        stop_on = (KeyboardInterrupt, SystemExit, pytest.exit.Exception)
        skip_on = (pytest.skip.Exception, pytest.xfail.Exception)
        folder = artifacts.folder(self.settings.dir)
        return self.plan.begin(artifacts=folder, stop_on=stop_on, skip_on=skip_on)

    def _tell_hooks(self, event: Event) -> None:
        hook = self.config.hook
        match event:
            case StepStarted(step=step):
                hook.pytest_plan_step_started(config=self.config, step=step)
            case StepFinished(result=result):
                hook.pytest_plan_step_finished(config=self.config, result=result)
            case StepCleaned(result=result):
                hook.pytest_plan_step_cleaned(config=self.config, result=result)
            case PlanFinished(result=result):
                hook.pytest_plan_finished(config=self.config, result=result)
            case _:
                pass

    def _refuse_unknown(self, steps: Mapping[str, PlannedStep]) -> None:
        for option, names in (
            ("--plan-until", [self.settings.until] if self.settings.until else []),
            ("--plan-skip", self.settings.skip),
        ):
            for name in names:
                if name not in steps:
                    raise pytest.UsageError(
                        f"{option}: {name!r} is no step{suggest(name, steps)}; "
                        f"the steps are {', '.join(steps) or 'none'}"
                    )

    def _refuse_name(self, name: str, origin: str) -> None:
        if name in _PARAMETERS:
            raise PlanDefinitionError(
                f"{origin}: a step cannot be called {name!r}, which hooks and tests take as "
                "something else; give it another name"
            )

    def _refuse_hiding(self, steps: Mapping[str, PlannedStep]) -> None:
        for name in steps:
            place = _pytest_fixture(self.config, name)
            if place is not None:
                raise pytest.UsageError(
                    f"step {name!r} ({steps[name].origin}) would hide the fixture {name!r} of "
                    f"{place}; give it another name with plan_step(name=...)"
                )

    def _explain(self, error: PlanDefinitionError) -> str:
        """Say it in pytest's terms when a hook takes a fixture."""
        name = error.parameter
        if name is None or not _is_fixture(self.config, name):
            return str(error)
        return (
            f"step {error.step!r} takes {name!r}, which is a pytest fixture: steps run once, "
            "before any test, and cannot take fixtures; take `ctx` (ctx.tmp_path, ctx.setenv, "
            f"ctx.free_port), `config` or the value of another step. {error}"
        )


def apply(verdict: Verdict) -> None:
    """End the running test as the verdict says."""
    if verdict.is_expected:
        pytest.xfail(verdict.reason)
    if verdict.skips:
        # The location is the test's, as for a skip mark; ours would tell nobody anything.
        raise pytest.skip.Exception(verdict.reason, _use_item_location=True)
    pytest.fail(verdict.reason, pytrace=False)


def _definitions(config: pytest.Config, name: str) -> list[Any]:
    # Not documented: without it only the message is less exact.
    manager: Any = config.pluginmanager.get_plugin("funcmanage")
    find = getattr(manager, "getfixturedefs", None)
    return [] if find is None else list(find(name, manager.session) or ())


def _is_fixture(config: pytest.Config, name: str) -> bool:
    return name in _ALWAYS_FIXTURES or bool(_definitions(config, name))


def _pytest_fixture(config: pytest.Config, name: str) -> str | None:
    for definition in _definitions(config, name):
        module = str(getattr(definition.func, "__module__", ""))
        if module.startswith("_pytest."):
            return f"pytest ({module})"
    return None
