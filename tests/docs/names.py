"""Finds the names of code on the pages for contributors, and checks that they exist."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import types
from collections.abc import Iterator

from tests.docs.pages import path_of
from tests.plugin.project import ROOT
from tests.test_layers import FLOORS, PACKAGE, modules_of

_SPAN = re.compile(r"`([^`\n]+)`")
_DOTTED = re.compile(r"[a-z]\w*(\.\w+)+")
_LAYERS = tuple(package.rpartition(".")[2] for package in FLOORS)
_FOLDERS = (*_LAYERS, "pytest_plan", "tests", "docs")
# A page may abbreviate `pytest_plan.engine.journal.journal.Journal` to `journal.journal.Journal`.
_PREFIXES = ("", "pytest_plan.", *(f"pytest_plan.{layer}." for layer in _LAYERS))


def code_names(page: str) -> list[str]:
    """Return the dotted names of our code on a page: three parts, or two that begin with a room."""
    spans = _SPAN.findall(path_of(page).read_text())
    names = [span for span in spans if _DOTTED.fullmatch(span) and not span.endswith(".py")]
    rooms = {room for floors in FLOORS.values() for floor in floors for room in floor}
    first = {*rooms, *_LAYERS}
    return [name for name in names if name.count(".") > 1 or name.partition(".")[0] in first]


def file_names(page: str) -> list[str]:
    """Return the paths of our files and folders on a page."""
    spans = _SPAN.findall(path_of(page).read_text())
    return [
        span
        for span in spans
        if span.partition("/")[0] in _FOLDERS and re.fullmatch(r"[\w./-]+/[\w./-]*", span)
    ]


def file_exists(name: str) -> bool:
    """Return whether a path exists, relative to the repository or to the package."""
    return any((folder / name).exists() for folder in (ROOT, PACKAGE))


def code_exists(name: str) -> bool:
    """Return whether a module, class, function or attribute exists."""
    return any(_exists(f"{prefix}{name}".split(".")) for prefix in _PREFIXES)


def _exists(parts: list[str]) -> bool:
    for length in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return length > 1 and _has(module, parts[length:])
    return False


def _has(module: types.ModuleType, names: list[str]) -> bool:
    found: object = module
    for name in names:
        if not hasattr(found, name):
            is_set = re.search(rf"self\.{name}\b.* = ", inspect.getsource(module))
            return isinstance(found, type) and is_set is not None  # an instance attribute
        found = getattr(found, name)
    return True


_LOCKS = ("Lock", "RLock", "Condition")


def locks() -> Iterator[str]:
    """Yield the locks and conditions of the package, in the form that pages use."""
    for module in modules_of(PACKAGE):
        for cls in ast.walk(module.tree):
            if isinstance(cls, ast.ClassDef):
                yield from (f"{_short(module.name)}.{cls.name}.{name}" for name in _locks_of(cls))


def _locks_of(cls: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(cls):
        if isinstance(node, ast.FunctionDef) and _is_lazy_lock(node):
            yield node.name
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if isinstance(target, ast.Attribute) and _makes(node.value, *_LOCKS):
            yield target.attr


def _is_lazy_lock(function: ast.FunctionDef) -> bool:
    """Return whether a function is a property that creates a lock when it is first used."""
    is_property = any(ast.unparse(one) == "property" for one in function.decorator_list)
    calls = (node for node in ast.walk(function) if isinstance(node, ast.expr))
    return is_property and any(_makes(call, *_LOCKS) for call in calls)


def thread_makers() -> Iterator[str]:
    """Yield the modules of the package that create threads, as pages name them."""
    for module in modules_of(PACKAGE):
        calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.expr))
        if any(_makes(call, "Thread") for call in calls):
            yield _short(module.name)


def _makes(node: ast.expr, *names: str) -> bool:
    """Return whether an expression creates one of these objects of `threading`."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) in {
        f"threading.{name}" for name in names
    }


def _short(module: str) -> str:
    return module.split(".", 2)[2]
