"""Markers to steps: finds what `@pytest.mark.plan_step` marks in conftests and plugins."""

from __future__ import annotations

import inspect
import os
import sys
import types
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.errors import PlanDefinitionError
from pytest_plan.plugin import lookup
from pytest_plan.plugin.options import Settings

if TYPE_CHECKING:
    from pytest_plan.engine.step import Step
    from pytest_plan.plugin.session import PlanSession

MARK = "plan_step"
_HOOK_OPTIONS = ("pre_exec", "post_exec", "cleanup")


@dataclass(frozen=True, slots=True)
class Declaration:
    """A step as a conftest or plugin declares it.

    Attributes:
        name: the name of the step.
        step: the step.
        options: the options of the step.
        file: where it is.
        line: its first line.
        scope: the parts of the path of the conftest's folder; empty for a plugin.
        doc: the docstring, None when there is none.
    """

    name: str
    step: Step
    options: Mapping[str, Any]
    file: str
    line: int
    scope: tuple[str, ...]
    doc: str | None

    @property
    def origin(self) -> str:
        """`file:line`, as short as it can be said from here."""
        return place(self.file, self.line)


def begin(config: pytest.Config, settings: Settings) -> None:
    """Look for steps from now on; those that are there already are found at once."""
    config.pluginmanager.register(_role(config, settings), "pytest_plan_role")
    declarations = Declarations(config, settings)
    config.pluginmanager.register(declarations, "pytest_plan_declarations")
    by_code = config.hook.pytest_plan_configure.get_hookimpls()
    if by_code or settings.show or settings.until or settings.skip:
        declarations.session()


def _role(config: pytest.Config, settings: Settings) -> object:
    """Return the plugin for what this process does with the plan."""
    if lookup.is_worker(config):
        from pytest_plan.plugin.worker import Worker

        return Worker(config, settings)
    if lookup.is_controller(config):
        from pytest_plan.plugin.controller import Controller

        return Controller(config, settings)
    from pytest_plan.plugin.solo import Solo

    return Solo(config, settings)


class Declarations:
    """Looks at every plugin and conftest that pytest registers, early or late."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._seen: set[int] = set()
        self._has_started = False

    def session(self) -> PlanSession:
        """Return the plan session of this process, made at the first call."""
        return lookup.of(self._config, self._settings)

    def pytest_plugin_registered(self, plugin: object, plugin_name: str) -> None:
        """Look for steps in a plugin; historic: told about those registered before, too."""
        if not isinstance(plugin, types.ModuleType):
            return
        try:
            self._refuse_late_hook(plugin)
            for obj in list(vars(plugin).values()):
                marks = step_marks(obj)
                if marks and id(obj) not in self._seen:
                    self._seen.add(id(obj))
                    self._declare(plugin, obj, marks)
        except PlanDefinitionError as error:
            raise self._usage_error(str(error)) from None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self) -> Generator[None]:
        """Let plugins add steps by code, before the plan starts anything."""
        self._has_started = True
        if self._config.hook.pytest_plan_configure.get_hookimpls():
            self._declare_by_code()
        return (yield)

    def _declare_by_code(self) -> None:
        from pytest_plan.plugin import fixtures

        session = self.session()
        try:
            self._config.hook.pytest_plan_configure(config=self._config, plan=session.plan)
            added = session.declare_added()
        except PlanDefinitionError as error:
            raise pytest.UsageError(str(error)) from None
        module = types.ModuleType("pytest_plan_configure")
        for declaration in added:
            fixtures.add_step_fixture(module, declaration)
        self._config.pluginmanager.register(module, "pytest_plan_steps")

    def _declare(self, module: types.ModuleType, obj: Any, marks: list[pytest.Mark]) -> None:
        from pytest_plan.plugin import fixtures

        declaration = declaration_of(obj, marks, scope_of(module))
        self.session().add(declaration)
        fixtures.add_step_fixture(module, declaration)

    def _refuse_late_hook(self, module: types.ModuleType) -> None:
        if self._has_started and hasattr(module, "pytest_plan_configure"):
            raise PlanDefinitionError(
                f"{module.__file__}: pytest_plan_configure comes too late: it is called before "
                "collection; move it to the conftest.py of rootdir, or mark functions with "
                "@pytest.mark.plan_step here"
            )

    def _usage_error(self, text: str) -> Exception:
        # While a directory is collected a usage error would be an INTERNALERROR.
        if self._has_started:
            return pytest.Collector.CollectError(text)
        return pytest.UsageError(text)


def step_marks(obj: object) -> list[pytest.Mark]:
    """Return the `plan_step` marks of a function or class itself, not those it inherits."""
    # Only functions and classes: other objects may answer any attribute (xdist's Producer does).
    if not isinstance(obj, (types.FunctionType, type)):
        return []
    marks = vars(obj).get("pytestmark", ())
    marks = marks if isinstance(marks, (list, tuple)) else [marks]
    return [mark for mark in marks if getattr(mark, "name", None) == MARK]


def declaration_of(obj: Any, marks: list[pytest.Mark], scope: tuple[str, ...]) -> Declaration:
    """Return the declaration of a marked function or class.

    Raises:
        PlanDefinitionError: it cannot be a step; the message says why and where.
    """
    from pytest_plan.engine.planned import check_name
    from pytest_plan.engine.step import snake_case

    file, line = _position(obj)
    origin = place(file, line)
    if len(marks) > 1:
        raise PlanDefinitionError(f"{origin}: {obj.__name__!r} is marked plan_step twice")
    if marks[0].args:
        raise PlanDefinitionError(
            f"{origin}: plan_step takes options by name only, not {marks[0].args[0]!r}"
        )
    options = dict(marks[0].kwargs)
    default = snake_case(obj.__name__) if isinstance(obj, type) else obj.__name__
    given = options.pop("name", None)
    name = check_name(default if given is None else given, origin)
    step = _step(obj, options, origin)
    _refuse_unknown(options, name, origin)
    options.setdefault("skip", skip_reason(obj))
    return Declaration(name, step, options, file, line, scope, inspect.getdoc(obj))


def _step(obj: Any, options: dict[str, Any], origin: str) -> Step:
    from pytest_plan.engine.step import FunctionStep, Step

    hooks = {hook: options.pop(hook) for hook in _HOOK_OPTIONS if hook in options}
    if not isinstance(obj, type):
        return FunctionStep(exec=obj, **hooks)
    if not issubclass(obj, Step):
        raise PlanDefinitionError(
            f"{origin}: class {obj.__name__!r} is no Step; derive it from pytest_plan.Step"
        )
    if hooks:
        raise PlanDefinitionError(
            f"{origin}: {', '.join(hooks)} of {obj.__name__!r} belong into the class, not its mark"
        )
    try:
        return obj()
    except TypeError as error:
        raise PlanDefinitionError(
            f"{origin}: {obj.__name__!r} cannot be made without arguments: {error}"
        ) from error


def _refuse_unknown(options: Mapping[str, Any], name: str, origin: str) -> None:
    from pytest_plan.engine.planned import OPTION_NAMES, suggest

    known = ("name", *(option for option in OPTION_NAMES if option != "skip"), *_HOOK_OPTIONS)
    for option in options:
        if option not in known:
            raise PlanDefinitionError(
                f"step {name!r} ({origin}): unknown option {option!r}{suggest(option, known)}; "
                f"the options are {', '.join(known)}"
            )


def skip_reason(obj: object, names: Mapping[str, Any] | None = None) -> str | None:
    """Return why a `skip` mark or a true `skipif` mark skips the object; None when none does."""
    marks = vars(obj).get("pytestmark", ()) if hasattr(obj, "__dict__") else ()
    for mark in marks if isinstance(marks, (list, tuple)) else [marks]:
        reason = mark_skips(mark, names or getattr(obj, "__globals__", {}))
        if reason is not None:
            return reason
    return None


def mark_skips(mark: pytest.Mark, names: Mapping[str, Any]) -> str | None:
    """Return why this mark skips, None when it does not; `names` are for conditions in text."""
    reason = str(mark.kwargs.get("reason", ""))
    if mark.name == "skip":
        return reason or str(mark.args[0] if mark.args else "unconditional skip")
    if mark.name != "skipif":
        return None
    conditions = mark.args or (mark.kwargs.get("condition", False),)
    for condition in conditions:
        if _is_true(condition, names):
            return reason or f"condition: {condition}"
    return None


def _is_true(condition: object, names: Mapping[str, Any]) -> bool:
    if not isinstance(condition, str):
        return bool(condition)
    # pytest evaluates such text with these names, too.
    known = {"os": os, "sys": sys, "platform": __import__("platform"), **names}
    return bool(eval(condition, known))  # noqa: S307 - text from the user's own mark


def refuse_in_test_module(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Raise a collection error for a step defined in a test module."""
    if not step_marks(obj) or getattr(obj, "__module__", None) != _module_name(collector):
        return
    raise pytest.Collector.CollectError(
        f"{name!r} is marked plan_step in a test module, where it would never run: move it to "
        f"{_nearest_conftest(collector)} or to a plugin module"
    )


def _module_name(collector: pytest.Collector) -> str | None:
    module = collector.getparent(pytest.Module)
    return None if module is None else str(module.obj.__name__)


def _nearest_conftest(collector: pytest.Collector) -> str:
    return os.path.relpath(collector.path.parent / "conftest.py", collector.config.rootpath)


def scope_of(module: types.ModuleType) -> tuple[str, ...]:
    """Return the parts of a conftest's folder, nothing for a plugin."""
    file = getattr(module, "__file__", None)
    if file is None or Path(file).name != "conftest.py":
        return ()
    return Path(file).parent.parts


def _position(obj: Any) -> tuple[str, int]:
    if isinstance(obj, types.FunctionType):
        return obj.__code__.co_filename, obj.__code__.co_firstlineno
    try:
        return inspect.getsourcefile(obj) or "?", inspect.getsourcelines(obj)[1]
    except (OSError, TypeError):
        return str(getattr(sys.modules.get(obj.__module__), "__file__", "?")), 0


def place(file: str, line: int) -> str:
    """Return `file:line`, relative to the working directory if the file lies below it."""
    relative = os.path.relpath(file)
    return f"{file if relative.startswith('..') else relative}:{line}"
