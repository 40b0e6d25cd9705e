"""Turns a function or class marked with `@pytest.mark.plan_step` into the declaration of a step."""

# Annotations are not postponed: a NamedTuple would compile each of them.
import contextlib
import inspect
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_plan.engine.definition.names import check_name, full_name, suggest
from pytest_plan.engine.definition.options import OPTION_NAMES
from pytest_plan.engine.definition.step import FunctionStep, Step, snake_case
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.plugin.declaring.marks import skip_reason

_HOOK_OPTIONS = ("pre_exec", "post_exec", "cleanup", "alive")


class Declaration(NamedTuple):
    """A step as declared in a conftest or plugin.

    Attributes:
        name: the own name of the step.
        step: the step.
        options: the options of the step.
        file: the source file of the function or class.
        line: the first line of the function or class.
        scope: the path of the conftest's folder, split into its parts; empty for a plugin.
        folder: the conftest's folder, relative to rootdir; "" for rootdir and for a plugin.
        doc: the docstring; None if there is none.
    """

    name: str
    step: Step
    options: Mapping[str, Any]
    file: str
    line: int
    scope: tuple[str, ...]
    folder: str
    doc: str | None

    @property
    def origin(self) -> str:
        """`file:line`, with a path relative to the working directory where possible."""
        return place(self.file, self.line)

    @property
    def full_name(self) -> str:
        """The full name of the step, which identifies it in every process and every run."""
        return full_name(self.folder, self.name)

    @property
    def conftest(self) -> str | None:
        """The path of the conftest that declares the step; None for a plugin."""
        return str(Path(*self.scope, "conftest.py")) if self.scope else None


def declaration_of(
    obj: Any, marks: list[pytest.Mark], scope: tuple[str, ...], root: Path
) -> Declaration:
    """Return the declaration of a marked function or class.

    Args:
        obj: the function or class.
        marks: its marks.
        scope: the path of the conftest's folder, split into its parts; empty for a plugin.
        root: rootdir.

    Raises:
        PlanDefinitionError: the function or class cannot be a step; the message says why and where
            it is.
    """
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
    folder = _folder(scope, root)
    return Declaration(name, step, options, file, line, scope, folder, inspect.getdoc(obj))


def _folder(scope: tuple[str, ...], root: Path) -> str:
    """Return the folder of a conftest relative to rootdir, with slashes; "" for rootdir."""
    if not scope or scope == root.parts:
        return ""
    folder = Path(*scope)
    with contextlib.suppress(ValueError):  # on Windows, it can be on another drive
        folder = Path(os.path.relpath(folder, root))
    text = folder.as_posix()
    # Names are written to terminals, reports and databases, so they have no control characters.
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _step(obj: Any, options: dict[str, Any], origin: str) -> Step:
    hooks = {hook: options.pop(hook) for hook in _HOOK_OPTIONS if hook in options}
    if not isinstance(obj, type):
        return FunctionStep(exec=obj, **hooks)
    if not issubclass(obj, Step):
        raise PlanDefinitionError(
            f"{origin}: class {obj.__name__!r} is not a Step; derive it from pytest_plan.Step"
        )
    if hooks:
        raise PlanDefinitionError(
            f"{origin}: define {', '.join(hooks)} in the class {obj.__name__!r}, not in its mark"
        )
    try:
        return obj()
    except PlanDefinitionError as error:
        raise PlanDefinitionError(f"{origin}: {error}") from error
    except TypeError as error:
        raise PlanDefinitionError(
            f"{origin}: cannot create {obj.__name__!r} without arguments: {error}"
        ) from error


def _refuse_unknown(options: Mapping[str, Any], name: str, origin: str) -> None:
    known = ("name", *(option for option in OPTION_NAMES if option != "skip"), *_HOOK_OPTIONS)
    for option in options:
        if option not in known:
            raise PlanDefinitionError(
                f"step {name!r} ({origin}): unknown option {option!r}{suggest(option, known)}; "
                f"the options are {', '.join(known)}"
            )


def _position(obj: Any) -> tuple[str, int]:
    if isinstance(obj, types.FunctionType):
        return obj.__code__.co_filename, obj.__code__.co_firstlineno
    try:
        return inspect.getsourcefile(obj) or "?", inspect.getsourcelines(obj)[1]
    except (OSError, TypeError):
        return str(getattr(sys.modules.get(obj.__module__), "__file__", "?")), 0


def place(file: str, line: int) -> str:
    """Return `file:line`, with a relative path if the file is below the working directory."""
    relative = os.path.relpath(file)
    return f"{file if relative.startswith('..') else relative}:{line}"
