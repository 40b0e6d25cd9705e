"""The public API as Markdown, generated from the signatures and docstrings of the code."""

from __future__ import annotations

import enum
import inspect
import re
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_overloads

import pytest_plan
import pytest_plan.steps
from pytest_plan.plugin.interface import hookspecs
from tests.docs.api_index import anchor
from tests.docs.google import markdown, paragraph

_LONGEST_SIGNATURE = 88
_STARS: dict[object, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
_OUR_NAMES = re.compile(r"\b(?:pytest_plan|collections\.abc|typing)\.(?:\w+\.)*")


def described(what: str) -> str:
    """Return the description of a class and its members, of a function, or of a hook.

    Args:
        what: the name of the class, function or hook. If `(...)` follows it, the description shows
            the constructor. After a colon come the members to describe; by default, all that the
            class adds.
    """
    name, _, members = what.partition(":")
    name, is_made, _ = name.partition("(...)")
    if name.startswith("pytest_plan_"):
        return _entry("###", name, getattr(hookspecs, name))
    cls = getattr(pytest_plan, name)
    if inspect.isfunction(cls):
        return _entry("###", name, cls)
    chosen = members.split() or _added(cls)
    parts = [f"### `{name}`"]
    if is_made:
        parts.append(_block(_signature(name, cls).removesuffix(" -> None")))
    parts += [*_bases(cls), markdown(_doc(cls), _types(cls)), *_values(cls)]
    keys = [key for key in vars(cls) if key in chosen]
    parts += _contents(name, keys)
    parts += [_entry("####", f"{name}.{key}", vars(cls)[key]) for key in keys]
    return "\n\n".join(parts)


def described_step(name: str) -> str:
    """Return the description of a function or class of `pytest_plan.steps`."""
    found = getattr(pytest_plan.steps, name)
    if not inspect.isclass(found):
        return _entry("###", name, found)
    return "\n\n".join([f"### `{name}`", markdown(_doc(found), _types(found))])


def _entry(level: str, name: str, member: Any) -> str:
    """Return the heading, the signature and the docstring of a function or property."""
    last = name.rpartition(".")[2]
    if isinstance(member, property):
        signature = f"{last}: {_annotation(inspect.signature(_getter(member)).return_annotation)}"
    else:
        signature = _signature(last, member)
    return "\n\n".join([f"{level} `{name}`", _block(signature), markdown(_doc(member))])


def _added(cls: type) -> list[str]:
    """Return the public functions and properties of a class that its base classes lack."""
    return [
        name
        for name, member in vars(cls).items()
        if not name.startswith("_")
        and (isinstance(member, property) or inspect.isfunction(member))
        and not any(hasattr(base, name) for base in cls.__bases__)
    ]


def _bases(cls: type) -> Iterator[str]:
    """Yield a line with the base classes that matter to a reader."""
    bases: tuple[Any, ...] = vars(cls).get("__orig_bases__", cls.__bases__)
    names = [
        _annotation(base)
        for base in bases
        if base is not object and getattr(base, "__name__", "") not in {"NamedTuple", "Generic"}
    ]
    if names and not issubclass(cls, enum.Enum):
        yield f"Base {'class' if len(names) == 1 else 'classes'}: " + ", ".join(
            f"`{name}`" for name in names
        )


def _types(cls: type) -> dict[str, str]:
    """Return the types of the attributes that the class itself declares, by name."""
    return {name: _annotation(kind) for name, kind in inspect.get_annotations(cls).items()}


def _values(cls: type) -> Iterator[str]:
    if issubclass(cls, enum.Enum):
        yield paragraph("Values: " + ", ".join(f"`{value.name}`" for value in cls))


def _contents(name: str, keys: Sequence[str]) -> Iterator[str]:
    """Yield a line with links to the members of a class, if there are several."""
    if len(keys) > 1:
        yield paragraph(
            "Members: " + ", ".join(f"[`{key}`](#{anchor(f'{name}.{key}')})" for key in keys)
        )


def _block(code: str) -> str:
    return f"```py\n{code}\n```"


def _signature(name: str, function: Callable[..., Any]) -> str:
    """Return the signature of a function, or those of its overloads, one below the other."""
    return "\n".join(_one(name, one) for one in overloads_of(function) or [function])


def _one(name: str, function: Callable[..., Any]) -> str:
    """Return a signature, on one line if it is short, otherwise with one line per parameter."""
    signature = inspect.signature(function)
    parts = list(_parameters(signature))
    result = signature.return_annotation
    returned = "" if result is signature.empty else f" -> {_returned(function, result)}"
    line = f"{name}({', '.join(parts)}){returned}"
    if len(line) <= _LONGEST_SIGNATURE:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returned}"])


def overloads_of(function: Callable[..., Any]) -> Sequence[Callable[..., Any]]:
    """Return the overloads of a public function, whose `__module__` is not that of its code."""
    home = getattr(inspect.unwrap(function), "__globals__", {}).get("__name__", "")
    found: Any = types.SimpleNamespace(__module__=home, __qualname__=function.__qualname__)
    return get_overloads(found)


def _parameters(signature: inspect.Signature) -> Iterator[str]:
    parameters = signature.parameters.values()
    star_is_due = all(one.kind is not one.VAR_POSITIONAL for one in parameters)
    slash_is_due = False
    for parameter in parameters:
        if parameter.name == "self":
            continue
        if slash_is_due and parameter.kind is not parameter.POSITIONAL_ONLY:
            yield "/"
        slash_is_due = parameter.kind is parameter.POSITIONAL_ONLY
        if parameter.kind is parameter.KEYWORD_ONLY and star_is_due:
            yield "*"
            star_is_due = False
        yield _parameter(parameter)
    if slash_is_due:
        yield "/"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = _STARS.get(parameter.kind, "")
    text = f"{stars}{parameter.name}: {_annotation(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return text
    return f"{text} = {_default(parameter.default)}"


def _default(value: object) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, type):
        return value.__name__
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _returned(function: Callable[..., Any], annotation: Any) -> str:
    """Return the type of a result; a function with `contextmanager` returns a context manager."""
    text = _annotation(annotation)
    inner = inspect.unwrap(function)
    if inner is not function and inspect.isgeneratorfunction(inner):
        return text.replace("Iterator", "AbstractContextManager", 1)
    return text


def _annotation(annotation: Any) -> str:
    if not isinstance(annotation, str):
        annotation = inspect.formatannotation(annotation)
    quote = '"' if annotation.startswith("Literal[") else ""
    return _OUR_NAMES.sub("", annotation).replace("'", quote)


def _getter(member: property) -> Callable[..., Any]:
    assert member.fget is not None
    return member.fget


def _doc(described: Any) -> str:
    assert described.__doc__, f"{described!r} has no docstring"
    return str(described.__doc__)
