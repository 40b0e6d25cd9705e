"""Whether a step is still what it was: its source, and whatever else it is made of.

Of a step's file counts what its hooks name, and what that names in turn; of other files only
what the option `inputs` lists. What cannot be read counts as changed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pytest_plan.engine.planned import PlannedStep, StepOptions

_Tops: TypeAlias = dict[str, list[ast.stmt]]  # the statements at the top of a file, by name

_NOT_PART = ("eager", "autouse", "skip", "inputs")  # when a step runs, not what it makes


class Fingerprints:
    """The fingerprints of linked steps, each made once.

    Args:
        steps: returns every step by name; asked again for one that was declared since.
    """

    def __init__(self, steps: Callable[[], Mapping[str, PlannedStep]]) -> None:
        self._look_up = steps
        self._steps = steps()
        self._made: dict[str, str] = {}
        self._files: dict[str, _Tops] = {}
        self._read = functools.cache(_read)  # steps of one file share what they call

    def of(self, name: str) -> str:
        """Return the fingerprint of a step; never twice the same where it cannot be read."""
        if name not in self._steps:
            self._steps = self._look_up()
        if name not in self._made:
            self._made[name] = self._make(self._steps[name])
        return self._made[name]

    def _make(self, step: PlannedStep) -> str:
        digest = hashlib.sha256()
        try:
            for part in (*_options(step.options), *self._sources(step), *_inputs(step)):
                digest.update(f"{len(part)}:".encode() + part)
        except (OSError, TypeError, SyntaxError, ValueError):
            return secrets.token_hex(32)
        for need in step.needs:
            digest.update(self.of(need).encode())
        return digest.hexdigest()

    def _sources(self, step: PlannedStep) -> Iterator[bytes]:
        for function in step.hooks.values():
            called: Any = function.function
            called = inspect.unwrap(called)
            while isinstance(called, functools.partial):
                yield repr((called.args, sorted(called.keywords.items()))).encode()
                called = called.func
            if not hasattr(called, "__code__"):
                called = type(called).__call__
            yield from self._source(called.__code__.co_filename, called.__qualname__, called)

    def _source(self, file: str, qualname: str, function: Any) -> Iterator[bytes]:
        if "<" in qualname:
            yield inspect.getsource(function).encode()
        if file not in self._files:
            self._files[file] = _tops(ast.parse(Path(file).read_text(encoding="utf-8")))
        reachable = self._reachable(self._files[file], qualname.split(".", maxsplit=1)[0])
        for name, text in sorted(reachable.items()):
            yield f"{name}\n{text}".encode()

    def _reachable(self, tops: _Tops, name: str) -> dict[str, str]:
        """Return the source of `name` and of all that it names, at the top of the same file."""
        found: dict[str, str] = {}
        waiting = [name]
        while waiting:
            one = waiting.pop()
            if one in found or one not in tops:
                continue
            parts = [self._read(node) for node in tops[one]]
            found[one] = "\n".join(text for text, _ in parts)
            waiting += [named for _, names in parts for named in names]
        return found


def _options(options: StepOptions) -> Iterator[bytes]:
    for name, value in options._asdict().items():
        if name not in _NOT_PART and not callable(value):
            yield f"{name}={value!r}".encode()


def _read(node: ast.stmt) -> tuple[str, list[str]]:
    """Return a statement, without comments and wherever it stands, and what it names."""
    names = [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    return ast.unparse(node), names


def _tops(tree: ast.Module) -> _Tops:
    found: _Tops = {}
    for node in tree.body:
        for name in _names(node):
            found.setdefault(name, []).append(node)
    return found


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            yield from (one.id for one in ast.walk(target) if isinstance(one, ast.Name))


def _inputs(step: PlannedStep) -> Iterator[bytes]:
    folder = Path(step.origin.rpartition(":")[0]).resolve().parent
    for pattern in step.options.inputs:
        path = Path(pattern)
        paths = [path] if path.is_absolute() else sorted(folder.glob(pattern))
        yield pattern.encode()
        for file in paths:
            if file.is_file():
                yield str(file).encode()
                yield file.read_bytes()
