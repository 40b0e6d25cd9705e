"""Fingerprints, which show whether a step has changed since it was kept, and what has changed.

A fingerprint covers the step's options, the files and functions in its `inputs`, the host of the
plan if a hook can ask for it, and its hooks: their source, the definitions of the same file that
they use, directly or indirectly, and the plain data that they hold. A step that cannot be read
counts as changed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from _blake2 import blake2b  # `hashlib` loads OpenSSL
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytest_plan.engine.definition.code.captured import as_text, captured_by
from pytest_plan.engine.definition.code.source import Sources
from pytest_plan.engine.definition.options import DEFAULT_HOST, StepOptions
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.model.errors import describe

# These options do not change what a step provides. The files of `inputs` are covered instead.
# The parameter of an instance is covered instead of those of all instances.
_NOT_PART = ("eager", "autouse", "after_tests", "skip", "inputs", "per", "params", "ids")
_DIGEST_SIZE = 12


class _Print(NamedTuple):
    """The parts of a fingerprint: digests by what they are of.

    Attributes:
        files: whole files. If none has changed, the source is not parsed.
        code: the definitions in the files that the hooks use.
        held: everything else.
    """

    files: Mapping[str, str]
    code: Mapping[str, str]
    held: Mapping[str, str]


class _UnreadableError(Exception):
    """A part of a step cannot be read.

    Args:
        what: the part.
        why: the reason.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} cannot be read: {why}")
        self.what = what
        self.why = why


class Fingerprints:
    """The fingerprints of linked steps. Each is computed once.

    Args:
        steps: a function that returns all steps by name. It is called again for a step that was
            declared later.
        host: the host of the plan.
    """

    def __init__(
        self, steps: Callable[[], Mapping[str, PlannedStep]], host: str = DEFAULT_HOST
    ) -> None:
        self._look_up = steps
        self._host = host
        self._steps = steps()
        self._sources = Sources()
        self._prints: dict[str, _StepPrint] = {}
        self._digest_of_file = functools.cache(self._digest_file)

    def of(self, name: str) -> str:
        """Return the fingerprint of a step; if the step cannot be read, it tells why not."""
        step = self._print(name)
        try:
            return json.dumps([step.files(), step.code(), step.held()])
        except _UnreadableError as error:
            return json.dumps([error.what, error.why])

    def change(self, name: str, fingerprint: str) -> str | None:
        """Return what has changed first since a step had this fingerprint, or None.

        It is one of `its code: NAME in FILE:LINE`, `closure: NAME`, `default: NAME`,
        `argument: NAME`, `attribute: NAME`, `constant: NAME`, `option NAME`, `--plan-host` and
        `inputs: FILE`, or it says what could not be read, then or now.
        """
        if (before := _parsed(fingerprint)) is None:
            return _unreadable(fingerprint)
        step = self._print(name)
        try:
            if before.files != step.files() and (code := _first(before.code, step.code())):
                return step.said(code)
            return _first(before.held, step.held())
        except _UnreadableError as error:
            return str(error)

    def _print(self, name: str) -> _StepPrint:
        if name not in self._steps:
            self._steps = self._look_up()
        if name not in self._prints:
            step = self._steps[name]
            digest = self._digest_of_file
            self._prints[name] = _StepPrint(step, self._sources, digest, self._host)
        return self._prints[name]

    def _digest_file(self, file: str) -> str:
        return _digest(self._sources.bytes_of(file))


class _StepPrint:
    """The parts of the fingerprint of one step; each is computed when it is asked for."""

    def __init__(
        self,
        step: PlannedStep,
        sources: Sources,
        digest_of_file: Callable[[str], str],
        host: str,
    ) -> None:
        self._step = step
        self._host = host
        self._folder = Path(step.origin.rpartition(":")[0]).resolve().parent
        self._sources = sources
        self._digest_of_file = digest_of_file
        self._captured = captured_by(hook.function for hook in step.hooks.values())
        self._said: dict[str, str] = {}
        self.code = functools.cache(self._code)
        self.held = functools.cache(self._held)

    def files(self) -> dict[str, str]:
        """Return the digests of the files of its functions, and which functions these are."""
        functions = self._captured.functions
        names = " ".join(f"{one.__qualname__}:{one.__code__.co_firstlineno}" for one in functions)
        files = dict.fromkeys(one.__code__.co_filename for one in functions)
        with _readable("its code"):
            return {"": names, **{self._relative(one): self._digest_of_file(one) for one in files}}

    def said(self, code: str) -> str:
        """Return how to say that a definition has changed."""
        return self._said.get(code, f"its code: {code.rpartition(' ')[2]} is no longer used")

    def _code(self) -> dict[str, str]:
        found = {}
        for function in self._captured.functions:
            file = function.__code__.co_filename
            with _readable("its code"):
                definitions = self._sources.used_by(function)
            for name, definition in definitions.items():
                key = f"{self._relative(file)} {name}"
                found[key] = _digest(definition.text.encode())
                place = f"{os.path.basename(file)}:{definition.line}"
                self._said[key] = f"its code: {definition.name} in {place}"
        return found

    def _held(self) -> dict[str, str]:
        hooks = self._step.hooks.items()
        parts = {
            "its hooks": " ".join(f"{hook}={as_text(one.function)}" for hook, one in hooks),
            **self._captured.values,
            "option needs": " ".join(_shared_needs(self._step)),
            **dict(_options(self._step.options)),
        }
        if self._step.param is not None:
            parts["its parameter"] = as_text(self._step.param)
        if self._host != DEFAULT_HOST and any("ctx" in one.required for _, one in hooks):
            parts["--plan-host"] = self._host
        found = {label: _digest(text.encode()) for label, text in parts.items()}
        for given in self._step.options.inputs:
            found.update(self._result(given) if callable(given) else self._matches(given))
        return found

    def _matches(self, pattern: str) -> dict[str, str]:
        """Return the digests of the files that a pattern matches; of a folder, all files in it."""
        path = Path(pattern)
        paths = [path] if path.is_absolute() else sorted(self._folder.glob(pattern))
        files = [str(file) for path in paths for file in _files(path)]
        with _readable("inputs"):
            return {f"inputs: {self._relative(one)}": self._digest_of_file(one) for one in files}

    def _result(self, function: Callable[[], Any]) -> dict[str, str]:
        """Return the digest of what a function in `inputs` returns."""
        name = getattr(function, "__name__", type(function).__name__)
        label = "inputs: lambda" if name == "<lambda>" else f"inputs: {name}()"
        with _readable(label):
            return {label: _digest(as_text(function()).encode())}

    def _relative(self, file: str) -> str:
        return os.path.relpath(file, self._folder)


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn an exception into the reason why a part of a step cannot be read."""
    try:
        yield
    except Exception as error:
        raise _UnreadableError(what, describe(error)) from error


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        files = (file for file in path.rglob("*") if "__pycache__" not in file.parts)
        yield from sorted(file for file in files if file.is_file())


def _shared_needs(step: PlannedStep) -> Iterator[str]:
    """Yield the needs without the worker, which may be another one in a later run."""
    for need in step.needs:
        yield need if step.worker is None else need.removesuffix(f"@{step.worker}")


def _options(options: StepOptions) -> Iterator[tuple[str, str]]:
    for name, value in options._asdict().items():
        if name not in _NOT_PART:
            yield f"option {name}", as_text(value)


def _first(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Return the first part that differs; a changed one comes before added and removed ones."""
    changed = [part for part in now if before.get(part, now[part]) != now[part]]
    added = [part for part in now if part not in before]
    removed = [part for part in before if part not in now]
    return next(iter((*changed, *added, *removed)), None)


def _digest(text: bytes) -> str:
    return blake2b(text, digest_size=_DIGEST_SIZE).hexdigest()


def _parsed(fingerprint: str) -> _Print | None:
    try:
        return _Print(*json.loads(fingerprint))
    except (ValueError, TypeError):
        return None


def _unreadable(fingerprint: str) -> str:
    try:
        what, why = json.loads(fingerprint)
    except (ValueError, TypeError):
        return "its code could not be read when it was kept"
    return f"{what} could not be read when it was kept: {why}"
