"""The values that functions and steps hold in addition to their source.

Functions that another function creates, partials, bound methods and instances of `Step` can have
the same source and do different things. Plain data counts by its value, all else by its type.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import dis
import enum
import functools
import pathlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from pytest_plan.engine.definition.options import OPTION_NAMES
from pytest_plan.engine.definition.step import Step

_ATOMS = (
    bool, int, float, complex, str, bytes, pathlib.PurePath, datetime.date, datetime.time,
    datetime.timedelta, decimal.Decimal, uuid.UUID, type(None), type(...),
)  # fmt: skip
_IMMUTABLE = (*_ATOMS, tuple, frozenset, enum.Enum)
_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")


class Captured(NamedTuple):
    """What some functions hold.

    Attributes:
        functions: the functions whose source counts.
        values: the values as text, by what holds them, such as `closure: VERSION`.
    """

    functions: tuple[FunctionType, ...]
    values: Mapping[str, str]


def captured_by(functions: Iterable[Callable[..., Any]]) -> Captured:
    """Return what these functions hold, directly or through functions of the same files."""
    walk = _Walk()
    for function in functions:
        walk.add(function, is_hook=True)
    return Captured(tuple(walk.functions), walk.values)


class _Walk:
    """Collects functions and values, each once."""

    def __init__(self) -> None:
        self.functions: dict[FunctionType, None] = {}
        self.values: dict[str, str] = {}
        self._files: set[str] = set()  # the files of the hooks
        self._seen: dict[int, Any] = {}  # by id, which is the object's while it is here
        self._owners: dict[int, Any] = {}  # of attributes, likewise

    def add(self, called: Any, *, is_hook: bool = False) -> None:
        """Add a callable and what it holds; functions of other files only if they are hooks."""
        if id(called) in self._seen:
            return
        self._seen[id(called)] = called
        if isinstance(called, functools.partial):
            self._add_partial(called, is_hook=is_hook)
        elif isinstance(called, MethodType):
            self._add_attributes(called.__self__)
            self.add(called.__func__, is_hook=is_hook)
        elif isinstance(called, FunctionType):
            self._add_function(called, is_hook=is_hook)
        elif is_hook and not isinstance(called, type):
            self._add_attributes(called)
            self.add(type(called).__call__, is_hook=True)

    def _add_partial(self, partial: functools.partial[Any], *, is_hook: bool) -> None:
        for number, value in enumerate(partial.args, start=1):
            self._add_value(f"argument: {number}", value)
        for name, value in partial.keywords.items():
            self._add_value(f"argument: {name}", value)
        self.add(partial.func, is_hook=is_hook)

    def _add_function(self, function: FunctionType, *, is_hook: bool) -> None:
        if (wrapped := getattr(function, "__wrapped__", None)) is not None:
            self.add(wrapped, is_hook=is_hook)  # of the decorator, only what it holds counts
        elif is_hook or function.__code__.co_filename in self._files:
            self._files.add(function.__code__.co_filename)
            self.functions[function] = None
        else:
            return
        for name, value in _closure(function):
            self._add_value(f"closure: {name}", value)
        for name, value in _defaults(function):
            self._add_value(f"default: {name}", value)
        for name in dict.fromkeys(_globals_of(function.__code__)):
            if name in function.__globals__:
                self._add_global(name, function.__globals__[name], function.__module__)

    def _add_global(self, name: str, value: Any, module: str) -> None:
        if isinstance(value, type):
            if value.__module__ == module:
                self._add_class(value)
        elif isinstance(value, FunctionType):
            self.add(value)
        elif isinstance(value, _IMMUTABLE):
            # A list or a dict does not count, because steps may change it while they run.
            self._add_value(f"constant: {name}", value)

    def _add_class(self, kind: type) -> None:
        if id(kind) not in self._seen:
            self._seen[id(kind)] = kind
            for value in vars(kind).values():
                self.add(value)

    def _add_attributes(self, owner: Any) -> None:
        if id(owner) in self._owners or isinstance(owner, (type, ModuleType)):
            return
        self._owners[id(owner)] = owner
        for name, value in _attributes(owner):
            self._add_value(f"attribute: {name}", value)

    def _add_value(self, label: str, value: Any) -> None:
        if isinstance(value, (FunctionType, MethodType, functools.partial)):
            self.add(value)
        else:
            self.values[label] = f"{self.values.get(label, '')}{as_text(value)};"


def as_text(value: Any, seen: frozenset[int] = frozenset()) -> str:
    """Return a text that is equal for equal plain data; for other values, the name of the type."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, _ATOMS):
        return repr(value)
    kind = type(value).__qualname__
    if id(value) in seen or isinstance(value, (type, ModuleType)):
        return str(getattr(value, "__qualname__", kind))
    seen |= {id(value)}
    return f"{kind}({', '.join(_parts(value, seen))})"


def _parts(value: Any, seen: frozenset[int]) -> Iterable[str]:
    if isinstance(value, (list, tuple)):
        return [as_text(one, seen) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted(as_text(one, seen) for one in value)
    named = value.items() if isinstance(value, Mapping) else _fields(value)
    return sorted(f"{as_text(name, seen)}: {as_text(one, seen)}" for name, one in named)


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name, None)
    elif isinstance(value, SimpleNamespace):
        yield from vars(value).items()


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an instance, also inherited ones, but no methods and no options."""
    found = dict(_fields(owner)) | getattr(owner, "__dict__", {})
    yield from ((name, value) for name, value in found.items() if name not in OPTION_NAMES)
    for kind in type(owner).__mro__:
        if kind in (object, Step):
            continue
        for name, value in vars(kind).items():
            is_special = name.startswith("__") or name in OPTION_NAMES or name in found
            if not is_special and not callable(value) and not hasattr(value, "__get__"):
                found[name] = value
                yield name, value


def _closure(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue  # it is not set yet


def _defaults(function: FunctionType) -> Iterator[tuple[str, Any]]:
    code, values = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    yield from zip(names[len(names) - len(values) :], values, strict=True)
    yield from (function.__kwdefaults__ or {}).items()


def _globals_of(code: CodeType) -> Iterator[str]:
    """Yield the names of the global variables that a function reads."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL:
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_of(constant)
