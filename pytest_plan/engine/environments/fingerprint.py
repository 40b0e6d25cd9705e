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

from pytest_plan.engine.definition.options import StepOptions
from pytest_plan.engine.definition.planned import PlannedStep

_Reader: TypeAlias = Callable[[Any], Iterator[bytes]]  # gives what counts of a function
_Tops: TypeAlias = dict[str, list[ast.stmt]]  # the statements at the top of a file, by name

_NOT_PART = ("eager", "autouse", "skip", "inputs")  # when a step runs, not what it makes


class Fingerprints:
    """The fingerprints of linked steps, each made once.

    One is a pair: of the files as they stand, which takes little to make again, and of what the
    hooks name in them, which counts where a file has changed.

    Args:
        steps: returns every step by name; asked again for one that was declared since.
    """

    def __init__(self, steps: Callable[[], Mapping[str, PlannedStep]]) -> None:
        self._look_up = steps
        self._steps = steps()
        self._made: dict[tuple[_Reader, str], str] = {}
        # Steps of one file share it, and what they call.
        self._file_digest = functools.cache(_file_digest)
        self._tops = functools.cache(_tops)
        self._read = functools.cache(_read)

    def of(self, name: str) -> str:
        """Return the fingerprint of a step; never twice the same where it cannot be read."""
        return f"{self._print(self._whole, name)} {self._print(self._named, name)}"

    def fits(self, name: str, fingerprint: str) -> bool:
        """Return whether a step is still what it was when it had this fingerprint."""
        whole, _, named = fingerprint.partition(" ")
        return whole == self._print(self._whole, name) or named == self._print(self._named, name)

    def _print(self, reader: _Reader, name: str) -> str:
        if name not in self._steps:
            self._steps = self._look_up()
        if (reader, name) not in self._made:
            self._made[reader, name] = self._make(reader, self._steps[name])
        return self._made[reader, name]

    def _make(self, reader: _Reader, step: PlannedStep) -> str:
        digest = hashlib.sha256()
        try:
            for part in (*_options(step.options), *_sources(step, reader), *_inputs(step)):
                digest.update(f"{len(part)}:".encode() + part)
        except (OSError, TypeError, SyntaxError, ValueError):
            return secrets.token_hex(32)
        for need in step.needs:
            digest.update(self._print(reader, need).encode())
        return digest.hexdigest()

    def _whole(self, function: Any) -> Iterator[bytes]:
        """Give the file of a function as it stands, and which function of it that is."""
        code = function.__code__
        yield f"{function.__qualname__}:{code.co_firstlineno}".encode()
        yield self._file_digest(code.co_filename)

    def _named(self, function: Any) -> Iterator[bytes]:
        """Give what a function names in its file, wherever it stands there."""
        qualname = function.__qualname__
        if "<" in qualname:
            yield inspect.getsource(function).encode()
        tops = self._tops(function.__code__.co_filename)
        reachable = self._reachable(tops, qualname.split(".", maxsplit=1)[0])
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


def _sources(step: PlannedStep, reader: _Reader) -> Iterator[bytes]:
    for function in step.hooks.values():
        called: Any = inspect.unwrap(function.function)
        while isinstance(called, functools.partial):
            yield repr((called.args, sorted(called.keywords.items()))).encode()
            called = called.func
        if not hasattr(called, "__code__"):
            called = type(called).__call__
        yield from reader(called)


def _options(options: StepOptions) -> Iterator[bytes]:
    for name, value in options._asdict().items():
        if name not in _NOT_PART and not callable(value):
            yield f"{name}={value!r}".encode()


def _read(node: ast.stmt) -> tuple[str, list[str]]:
    """Return a statement, without comments and wherever it stands, and what it names."""
    names = [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    return ast.unparse(node), names


def _file_digest(file: str) -> bytes:
    return hashlib.sha256(Path(file).read_bytes()).digest()


def _tops(file: str) -> _Tops:
    found: _Tops = {}
    for node in ast.parse(Path(file).read_bytes()).body:
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
