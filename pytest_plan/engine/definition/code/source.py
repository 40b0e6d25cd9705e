"""The source of functions, with what they use of their file.

Only the top-level definitions of the same file count, and comments and their order do not.
"""

# Annotations are not postponed: a NamedTuple would compile each of them.
import ast
import functools
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import NamedTuple

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Definition(NamedTuple):
    """A function, class or other name that is defined at the top level of a file.

    Attributes:
        name: the name, with `()` if it is a function.
        line: the line of the definition.
        text: the source, without comments.
        uses: the names that the source refers to.
    """

    name: str
    line: int
    text: str
    uses: tuple[str, ...]


class Sources:
    """Reads each file once. Any thread may call its methods."""

    def __init__(self) -> None:
        self.bytes_of = functools.cache(_read)
        # Held while a file is parsed, so that steps that begin at the same time parse it once.
        # Parsing in threads has also been reported to fail in some versions of Python
        # (python/cpython#106905).
        self._parsing = threading.Lock()
        self._parsed = functools.cache(_parsed)

    def used_by(self, function: FunctionType) -> dict[str, Definition]:
        """Return the definition of a function and those that it uses, by name, in order of use.

        Raises:
            OSError, SyntaxError, TypeError, ValueError: the source cannot be read.
        """
        file = function.__code__.co_filename
        with self._parsing:
            definitions = self._parsed(self.bytes_of(file))
        outermost = function.__qualname__.split(".", maxsplit=1)[0]
        found: dict[str, Definition] = {}
        if outermost not in definitions:
            found[function.__qualname__] = _nameless(function)
        waiting = [outermost, *(name for one in found.values() for name in one.uses)]
        for name in waiting:  # the list grows
            if name in definitions and name not in found:
                found[name] = _joined(definitions[name])
                waiting += found[name].uses
        return found


def _read(file: str) -> bytes:
    return Path(file).read_bytes()


def _parsed(source: bytes) -> dict[str, list[Definition]]:
    found: dict[str, list[Definition]] = {}
    for node in ast.parse(source).body:
        _remove_parameters(node)
        names = dict.fromkeys(_names_defined_by(node))
        for name in names:
            found.setdefault(name, []).append(_definition(name, node))
    return found


def _remove_parameters(node: ast.stmt) -> None:
    """Remove the parameters of a step from its mark, because each instance has only one of them."""
    for mark in getattr(node, "decorator_list", ()):
        if isinstance(mark, ast.Call) and getattr(mark.func, "attr", "") == "plan_step":
            mark.keywords = [one for one in mark.keywords if one.arg not in ("params", "ids")]


def _definition(name: str, node: ast.stmt) -> Definition:
    is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    return Definition(
        f"{name}()" if is_function else name,
        node.lineno,
        ast.unparse(node),
        tuple(dict.fromkeys(one for one in _uses(node) if one != name)),
    )


def _uses(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node refers to. Parameters hide other names in their function."""
    if isinstance(node, ast.Name):
        yield node.id
    hidden: set[str] = set()
    for field, value in ast.iter_fields(node):  # the parameters come before the body
        if isinstance(value, ast.arguments):
            hidden = _parameters(value)
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, ast.AST):
                uses = _uses(inner)
                yield from (name for name in uses if field != "body" or name not in hidden)


def _parameters(arguments: ast.arguments) -> set[str]:
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    rest = (arguments.vararg, arguments.kwarg)
    return {one.arg for one in (*named, *rest) if one is not None}


def _joined(parts: list[Definition]) -> Definition:
    """Return one definition for a name that is defined in several places."""
    uses = dict.fromkeys(name for part in parts for name in part.uses)
    return parts[-1]._replace(text="\n".join(part.text for part in parts), uses=tuple(uses))


def _nameless(function: FunctionType) -> Definition:
    """Return the definition of a function that no top-level name contains, such as a lambda."""
    text = inspect.getsource(function)
    code = function.__code__
    return Definition(function.__name__, code.co_firstlineno, text, code.co_names)


def _names_defined_by(node: ast.AST) -> Iterator[str]:
    """Yield the names that a top-level statement defines, also inside `if`, `try` and `with`."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif not isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
        for inner in ast.iter_child_nodes(node):
            yield from _names_defined_by(inner)
