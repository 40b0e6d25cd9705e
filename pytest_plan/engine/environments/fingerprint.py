"""Fingerprints, which show whether a step has changed since it was kept.

A fingerprint covers the step's options, the fingerprints of the steps that it needs, and the files
listed in its `inputs`. From the step's own file, it covers the hooks and all top-level definitions
that they use, directly or indirectly. A step whose source cannot be read counts as changed.
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

_Reader: TypeAlias = Callable[[Any], Iterator[bytes]]  # yields the parts of a function to hash
_Definitions: TypeAlias = dict[str, list[ast.stmt]]  # a file's top-level statements, by name

# These options do not change what a step provides. For `inputs`, the files are hashed instead.
_NOT_PART = ("eager", "autouse", "skip", "inputs")


class Fingerprints:
    """The fingerprints of linked steps. Each is computed once.

    A fingerprint is a pair of hashes. The first covers whole files, so it is cheap to compute. If
    a file has changed, the second decides; it covers only the definitions that the hooks use.

    Args:
        steps: a function that returns all steps by name. It is called again for a step that was
            declared later.
    """

    def __init__(self, steps: Callable[[], Mapping[str, PlannedStep]]) -> None:
        self._look_up = steps
        self._steps = steps()
        self._hashes: dict[tuple[_Reader, str], str] = {}
        # Cached because all steps of a file share the file and its functions.
        self._file_digest = functools.cache(_file_digest)
        self._definitions = functools.cache(_definitions)
        self._read = functools.cache(_read)

    def of(self, name: str) -> str:
        """Return the fingerprint of a step, or a random one if its source cannot be read."""
        return f"{self._hash(self._whole, name)} {self._hash(self._named, name)}"

    def fits(self, name: str, fingerprint: str) -> bool:
        """Return whether a step has not changed since it had this fingerprint."""
        whole, _, named = fingerprint.partition(" ")
        return whole == self._hash(self._whole, name) or named == self._hash(self._named, name)

    def _hash(self, reader: _Reader, name: str) -> str:
        if name not in self._steps:
            self._steps = self._look_up()
        if (reader, name) not in self._hashes:
            self._hashes[reader, name] = self._compute(reader, self._steps[name])
        return self._hashes[reader, name]

    def _compute(self, reader: _Reader, step: PlannedStep) -> str:
        digest = hashlib.sha256()
        try:
            for part in (*_options(step.options), *_sources(step, reader), *_inputs(step)):
                digest.update(f"{len(part)}:".encode() + part)
        except (OSError, TypeError, SyntaxError, ValueError):
            return secrets.token_hex(32)
        for need in step.needs:
            digest.update(self._hash(reader, need).encode())
        return digest.hexdigest()

    def _whole(self, function: Any) -> Iterator[bytes]:
        """Yield the name and line of a function, and the digest of its file."""
        code = function.__code__
        yield f"{function.__qualname__}:{code.co_firstlineno}".encode()
        yield self._file_digest(code.co_filename)

    def _named(self, function: Any) -> Iterator[bytes]:
        """Yield the source of a function and of all definitions in its file that it uses.

        Comments and the order of definitions are ignored.
        """
        qualname = function.__qualname__
        if "<" in qualname:
            yield inspect.getsource(function).encode()
        definitions = self._definitions(function.__code__.co_filename)
        reachable = self._reachable(definitions, qualname.split(".", maxsplit=1)[0])
        for name, text in sorted(reachable.items()):
            yield f"{name}\n{text}".encode()

    def _reachable(self, definitions: _Definitions, name: str) -> dict[str, str]:
        """Return the source of `name` and of all definitions that it uses, by name."""
        found: dict[str, str] = {}
        waiting = [name]
        while waiting:
            one = waiting.pop()
            if one in found or one not in definitions:
                continue
            parts = [self._read(node) for node in definitions[one]]
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
    """Return the source of a statement without its comments, and the names that it uses."""
    names = [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    return ast.unparse(node), names


def _file_digest(file: str) -> bytes:
    return hashlib.sha256(Path(file).read_bytes()).digest()


def _definitions(file: str) -> _Definitions:
    found: _Definitions = {}
    for node in ast.parse(Path(file).read_bytes()).body:
        for name in _defined_names(node):
            found.setdefault(name, []).append(node)
    return found


def _defined_names(node: ast.stmt) -> Iterator[str]:
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
