"""The values of the State that a journal records, and when.

A value is written once a later process could read it: a later run that uses the steps again, or the
`cleanup` hook of a step that has begun. Of a key that was set several times in between, only the
last value is encoded and written.
"""

# Annotations are not postponed: a NamedTuple would compile each of them.
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.journal.codec import Codec, text_of
from pytest_plan.engine.journal.reference import NotDurableError
from pytest_plan.engine.journal.schema import replace
from pytest_plan.engine.journal.writing.transaction import AnyStatement, Statement
from pytest_plan.engine.journal.writing.writer import Writer
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.model.outcomes import Hook

_VALUE = replace("state")
_REMOVED = "DELETE FROM state WHERE key = ?"
_UNCHANGING = (str, bytes, int, float, bool, type(None))
_ALL_KEYS = frozenset(("state", "ctx"))  # a hook that takes one of these can read every key
_LARGE = 64 << 10  # the size from which a text or bytes are written as they are


class Lasting(NamedTuple):
    """A snapshot of a State value, ready to be written.

    Attributes:
        text: the value as encoded by `Codec`; None if it cannot be written.
        lost: the reason why the value cannot be written; None if it can be written.
        data: the content of a large text or of large bytes; None for any other value. `text` is
            then the type.
    """

    text: str | None
    lost: str | None = None
    data: bytes | None = None


Snapshot: TypeAlias = Lasting | Callable[[], Any]  # a function returns another snapshot


class _Layer(NamedTuple):
    """A value that is to be written, the step that owns it, and the values of steps below it."""

    snapshot: Snapshot
    owner: str
    below: tuple[tuple[str, Snapshot], ...]


class StateValues:
    """What is left to write of the State.

    Args:
        codec: encodes the values.
        writer: writes them.
        wants_all: whether a later run may use the steps again, and so may read all values.
    """

    def __init__(self, codec: Codec, writer: Writer, *, wants_all: bool) -> None:
        self._codec = codec
        self._writer = writer
        self._wants_all = wants_all
        self._wanted: set[str] = set()
        # The last value of each key that is not written yet; None means that the key was removed.
        # Any thread adds to it, and only the thread that writes takes from it.
        self._unwritten: dict[str, _Layer | None] = {}
        # The last value that each step has written to a key, by key; the newest one is last. A
        # test that writes changes the newest one. The keys of the steps themselves are missing.
        self._layers: dict[str, dict[str, Snapshot]] = {}

    def want_all(self) -> None:
        """Write all values, from now on and those that are there."""
        self._wants_all = True
        self._writer.note_values(self._statements)

    def want(self, step: PlannedStep) -> None:
        """Write what the `cleanup` hook of a step can read, from now on and what is there."""
        hook = step.hooks.get(Hook.CLEANUP)
        if hook is None or not hook.required or self._wants_all:
            return
        self._wanted.update(_keys(step, hook.required))
        self._wants_all = not _ALL_KEYS.isdisjoint(hook.required)
        self._writer.note_values(self._statements)

    def snapshot(self, value: Any) -> Snapshot:
        """Return a snapshot of a value. Later changes to the value do not affect it."""
        if type(value) in _UNCHANGING:
            return partial(self._encoded, value)
        return self._encoded(value)

    def set(self, key: str, snapshot: Snapshot, writer: str | None) -> None:
        """Note the value of a key; `writer` is the step that has written it, None means a test."""
        self._unwritten[key] = self._put(key, snapshot, writer)
        self._note(key)

    def remove(self, key: str) -> None:
        """Note that a key was removed."""
        self._layers.pop(key, None)
        self._unwritten[key] = None
        self._note(key)

    def _note(self, key: str) -> None:
        if self._wants_all or key in self._wanted:
            self._writer.note_values(self._statements)

    def _put(self, key: str, snapshot: Snapshot, writer: str | None) -> _Layer:
        """Put a value on top of the layers of a key."""
        if key == writer:
            return _Layer(snapshot, key, ())  # only the step itself writes its key
        layers = self._layers.get(key)
        if writer is None and not layers:
            return _Layer(snapshot, "", ())
        if layers is None:
            layers = self._layers[key] = {}
        owner = next(reversed(layers)) if writer is None else writer
        layers.pop(owner, None)
        below = tuple(layers.items())
        layers[owner] = snapshot
        return _Layer(snapshot, owner, below)

    def _statements(self) -> Sequence[AnyStatement]:
        """Return what writes the values that are due; only the thread that writes calls this."""
        due = [key for key in list(self._unwritten) if self._wants_all or key in self._wanted]
        return [partial(self._statement, key, self._unwritten.pop(key)) for key in due]

    def _statement(self, key: str, layer: _Layer | None) -> Statement:
        if layer is None:
            return _REMOVED, (key,)
        text, lost, data = _taken(layer.snapshot)
        others = None
        if layer.below:
            others = json.dumps([(step, *_as_text(_taken(one))) for step, one in layer.below])
        return _VALUE, (key, text, lost, layer.owner, others, data)

    def _encoded(self, value: Any) -> Lasting:
        try:
            if type(value) in (str, bytes) and len(value) > _LARGE:
                kind, data = self._codec.encode_large(value)
                return Lasting(kind, None, data)
            return Lasting(self._codec.encode(value))
        except NotDurableError as error:
            return Lasting(None, str(error))


def _keys(step: PlannedStep, parameters: Sequence[str]) -> list[str]:
    """Return the keys whose values the parameters of a step's hook can be."""
    keys = [step.name]
    for name in parameters:
        try:
            keys.append(name if step.names is None else step.names.key(name))
        except StateError:  # it means no single step, so the hook gets no value
            continue
    return keys


def _taken(snapshot: Snapshot) -> Lasting:
    try:
        while not isinstance(snapshot, Lasting):
            snapshot = snapshot()
    except Exception as error:  # raised by code of the value, which must not stop the journal
        return Lasting(None, f"it cannot be encoded: it raised {type(error).__qualname__}")
    return snapshot


def _as_text(value: Lasting) -> tuple[str | None, str | None]:
    if value.data is None or value.text is None:
        return value.text, value.lost
    return text_of(value.text, value.data), None
