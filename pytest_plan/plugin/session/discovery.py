"""Finds steps in plugins and conftests, and registers the role of this process."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.plugin.declaring.marks import EACH, step_marks, steps_of
from pytest_plan.plugin.interface.options import Settings
from pytest_plan.plugin.session import fixtures, lookup
from pytest_plan.plugin.xdist import roles

if TYPE_CHECKING:
    from pytest_plan.plugin.declaring.declaration import Declaration
    from pytest_plan.plugin.declaring.declared import DeclaredSteps


def begin(config: pytest.Config, settings: Settings, command: object | None) -> None:
    """Look for steps in all plugins and conftests, including those that are registered later.

    Args:
        config: the config of this process.
        settings: the options.
        command: the plugin that implements a command, which runs no tests; None means that this
            process runs tests or collects them.
    """
    if settings.show or command is not None or config.option.setupplan:
        roles.disable_workers(config)
    config.pluginmanager.register(fixtures, "pytest_plan_fixtures")
    config.pluginmanager.register(command or _role(config, settings), "pytest_plan_role")
    declarations = Declarations(config, settings)
    config.pluginmanager.register(declarations, "pytest_plan_declarations")
    by_code = config.hook.pytest_plan_configure.get_hookimpls()
    asked = settings.show or settings.until or settings.skip or settings.report
    # The limit applies to the whole session, even in a project without steps.
    if by_code or asked or settings.limit is not None:
        declarations.declared()


def _role(config: pytest.Config, settings: Settings) -> object:
    """Return the plugin that implements the role of this process."""
    if roles.is_worker(config):
        from pytest_plan.plugin.session.worker import Worker

        return Worker(config, settings)
    if roles.is_controller(config):
        from pytest_plan.plugin.session.controller.controller import Controller

        return Controller(config, settings)
    from pytest_plan.plugin.session.solo import Solo

    return Solo(config, settings)


class Declarations:
    """Finds steps in every plugin and conftest that pytest registers, before and after `begin`."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._seen: dict[int, list[tuple[str, ...]]] = {}  # scopes, by the id of a step
        self._fixtures = fixtures.StepFixtures(config)
        self._has_started = False
        self._is_collecting = False

    def declared(self) -> DeclaredSteps:
        """Return the steps of this process; the first call creates its plan."""
        return lookup.of(self._config, self._settings).declared

    @pytest.hookimpl(tryfirst=True)
    def pytest_plugin_registered(self, plugin: object, plugin_name: str) -> None:
        """Look for steps in a plugin before pytest looks for fixtures in it.

        The hook is historic: pytest also calls it for plugins that are already registered.
        """
        if isinstance(plugin, types.ModuleType) and not plugin.__name__.startswith("_pytest."):
            self._declare_steps_of(plugin, plugin_name)
        if self._has_started:  # until then, pytest does not look for fixtures
            self._fixtures.show()

    @pytest.hookimpl(specname="pytest_plugin_registered", trylast=True)
    def pytest_plugin_registered_done(self) -> None:
        """Hide the fixtures of steps again, because pytest has looked for them in the plugin."""
        self._fixtures.hide()

    def _declare_steps_of(self, plugin: types.ModuleType, plugin_name: str) -> None:
        try:
            self._refuse_late_hook(plugin)
            marked = steps_of(plugin)
            if marked:
                self._load_plugins_of(plugin)
            for obj, marks in marked:
                self._declare(plugin, obj, marks)
        except BaseException as error:
            self._refuse(f"the steps of {getattr(plugin, '__file__', plugin_name)}", error)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self) -> Generator[None]:
        """Let plugins add steps in code before anything is provisioned."""
        self._has_started = True
        if self._config.hook.pytest_plan_configure.get_hookimpls():
            self._declare_by_code()
        self._is_collecting = True
        plan_session = lookup.peek(self._config)
        if plan_session is not None:
            plan_session.declared.settle_eager()
        self._fixtures.show()  # pytest looks for the fixtures of all initial conftests
        try:
            result = yield
        finally:
            self._fixtures.hide()
        fixtures.let_others_override(self._config)
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Show the fixtures of steps while pytest parses the conftest of a directory."""
        report = yield
        if isinstance(collector, pytest.Directory):
            self._fixtures.show()
        return report

    @pytest.hookimpl(specname="pytest_make_collect_report", wrapper=True, tryfirst=True)
    def pytest_make_collect_report_done(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Hide the fixtures of steps again; all other wrappers have run."""
        try:
            return (yield)
        finally:
            if isinstance(collector, pytest.Directory):
                self._fixtures.hide()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test with the mark `plan_each` once with each step that it names."""
        mark = metafunc.definition.get_closest_marker(EACH)
        if mark is not None:
            from pytest_plan.plugin.items.stages import parametrize_each

            has_steps = lookup.peek(self._config) is not None
            parametrize_each(metafunc, mark, has_steps=has_steps)

    def pytest_pycollect_makeitem(
        self, collector: pytest.Module | pytest.Class, name: str, obj: object
    ) -> None:
        """Refuse steps in test modules, where they would silently never run."""
        if not step_marks(obj) or getattr(obj, "__module__", None) != _module_name(collector):
            return
        text = (
            f"{name!r} is marked plan_step in a test module, where it would never run: move it to "
            f"{_nearest_conftest(collector)} or to a plugin module"
        )
        raise _collect_error(text)

    def _declare_by_code(self) -> None:
        declared = self.declared()
        added: list[Declaration] = []
        try:
            self._config.hook.pytest_plan_configure(config=self._config, plan=declared.plan)
            added = declared.declare_added()
        except BaseException as error:
            self._refuse("the steps of pytest_plan_configure", error)
        module = types.ModuleType("pytest_plan_configure")
        for declaration in added:
            self._fixtures.add(module, declaration)
        if declared.definition.has_instances:
            self._parametrize()
        self._config.pluginmanager.register(module, "pytest_plan_steps")

    def _declare(self, module: types.ModuleType, obj: Any, marks: list[pytest.Mark]) -> None:
        scope = scope_of(module)
        seen = self._seen.setdefault(id(obj), [])
        if any(scope[: len(known)] == known for known in seen):
            return  # imported from the plugin or the conftest that declares it
        seen.append(scope)
        # Imported here so that a run without steps does not import the engine.
        from pytest_plan.plugin.declaring.declaration import declaration_of

        declaration = declaration_of(obj, marks, scope, self._config.rootpath)
        self.declared().add(declaration)
        self._fixtures.add(module, declaration)
        if self.declared().definition.has_instances:
            self._parametrize()

    def _parametrize(self) -> None:
        manager, name = self._config.pluginmanager, "pytest_plan_parametrization"
        if not manager.has_plugin(name):
            from pytest_plan.plugin.items.instances import Parametrization

            manager.register(Parametrization(self.declared().definition), name)

    def _load_plugins_of(self, module: types.ModuleType) -> None:
        # pytest loads these plugins after this hook, but the steps of a conftest must come after
        # the steps of the plugins that it names.
        named = getattr(module, "pytest_plugins", ())
        manager = self._config.pluginmanager
        for name in [named] if isinstance(named, str) else named:
            manager.import_plugin(name)
            plugin = manager.get_plugin(name)
            if isinstance(plugin, types.ModuleType):
                self._declare_steps_of(plugin, name)

    def _refuse_late_hook(self, module: types.ModuleType) -> None:
        if self._has_started and hasattr(module, "pytest_plan_configure"):
            raise PlanDefinitionError(
                f"{module.__file__}: pytest_plan_configure is called before collection, and this "
                "file is loaded later: move the hook to the conftest.py of rootdir, or mark "
                "functions here with @pytest.mark.plan_step"
            )

    def _refuse(self, what: str, raised: BaseException) -> None:
        """Refuse the run if steps cannot be declared; a command only reports it."""
        error = _refusal(what, raised)
        if error is None:
            raise raised
        if self._settings.is_command:
            self._config.stash.setdefault(lookup.FAILURES, []).append("a step cannot be declared")
            _say(f"plan: {error}\n")
        elif self._is_collecting:
            # While pytest collects a directory, it reports a usage error as an INTERNALERROR.
            raise _collect_error(str(error)) from None
        elif roles.is_worker(self._config):
            # xdist would replace the worker again and again. The controller reports the error.
            self.declared().error = str(error)
        else:
            raise error from None


def _say(text: str) -> None:
    # Imported here because a run without steps does not need it.
    from pytest_plan.engine.model.text import visible

    sys.stderr.write(visible(text))


def _collect_error(text: str) -> pytest.Collector.CollectError:
    from pytest_plan.engine.model.text import visible

    return pytest.Collector.CollectError(visible(text))


def _refusal(what: str, error: BaseException) -> BaseException | None:
    """Return the error to report; None for an exception that is meant to end the session."""
    if isinstance(error, PlanDefinitionError):
        return pytest.UsageError(str(error))
    from pytest_plan.plugin.run.hook_caller import ERRORS, refusal

    return refusal(f"{what} cannot be declared", error) if isinstance(error, ERRORS) else None


def _module_name(collector: pytest.Collector) -> str | None:
    module = collector.getparent(pytest.Module)
    return None if module is None else str(module.obj.__name__)


def _nearest_conftest(collector: pytest.Collector) -> str:
    return os.path.relpath(collector.path.parent / "conftest.py", collector.config.rootpath)


def scope_of(module: types.ModuleType) -> tuple[str, ...]:
    """Return the path of a conftest's folder, split into its parts; () for a plugin."""
    file = getattr(module, "__file__", None)
    if file is None or Path(file).name != "conftest.py":
        return ()
    return Path(file).parent.parts
