"""Encodes values as JSON text that a later process can decode.

It does not use pickle, because reading a journal must not run code. Decoding builds plain data of
the types below. A value that needs a class or a time zone stays unbuilt until `Codec.build`.
Encoding refuses values that the format cannot represent; the error names the type of the value.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from pytest_plan.engine.journal.reference import NotDurableError, Reference, References

_TAG = "$"  # the key that marks a JSON object as a value of a type that JSON lacks
_TEXTS: Mapping[type, Callable[[Any], str]] = {
    bytes: lambda value: base64.b64encode(value).decode(),
    datetime.date: datetime.date.isoformat,
    datetime.time: datetime.time.isoformat,
    uuid.UUID: str,
    decimal.Decimal: str,
}
_FROM_TEXTS: Mapping[str, Callable[[str], Any]] = {
    "bytes": base64.b64decode,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "UUID": uuid.UUID,
    "Decimal": decimal.Decimal,
    "path": pathlib.Path,
}
_COLLECTIONS: Mapping[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}


_TEXT, _BYTES = "text", "bytes"  # the types that `encode_large` returns


class Unbuilt:
    """A decoded value that only `Codec.build` can make.

    Attributes:
        tag: its kind: `enum`, `flag`, `dataclass` or `zoned`.
        reference: where its class is; for `zoned`, the name of the time zone.
        of: the name of the enum member, the value of the flag, the fields of the dataclass, or the
            datetime without its time zone.
    """

    __slots__ = ("of", "reference", "tag")

    def __init__(self, tag: str, reference: Any, of: Any) -> None:
        self.tag = tag
        self.reference = reference
        self.of = of


class Codec:
    """Converts values to JSON text and back.

    Args:
        references: the references to the classes of dataclasses and enums.
        is_secret: a function that returns whether a text contains a secret, which must not be
            written.
    """

    def __init__(
        self, references: References, is_secret: Callable[[str], bool] = lambda text: False
    ) -> None:
        self._references = references
        self._is_secret = is_secret

    def encode(self, value: Any) -> str:
        """Encode a value as JSON text.

        Raises:
            NotDurableError: the value, or a part of it, cannot be written. The message contains
                its type but never the value.
        """
        try:
            return json.dumps(self._plain(value))
        except RecursionError:
            raise NotDurableError("it is nested too deeply or contains itself") from None
        except NotDurableError:
            raise
        except (ValueError, AttributeError) as error:  # a very long int, or an unset field
            raise NotDurableError(str(error)) from None

    def encode_large(self, value: str | bytes) -> tuple[str, bytes]:
        """Return the type of a text or bytes, and the content; `text_of` gives what `encode` does.

        Raises:
            NotDurableError: the value contains a secret.
        """
        if isinstance(value, str):
            return _TEXT, self._without_secret(value).encode("utf-8", "surrogatepass")
        self._without_secret(value.decode("utf-8", "surrogateescape"))
        return _BYTES, value

    def decode(self, text: str) -> Any:
        """Decode a value from JSON text. This imports nothing and runs no code of the user.

        Enum members, dataclasses and times with a named time zone become `Unbuilt`.

        Raises:
            ValueError: `encode` did not write this text.
        """
        try:
            return self._value(json.loads(text))
        except (LookupError, TypeError, ArithmeticError, AttributeError, RecursionError) as error:
            raise ValueError(f"not the text of a value: {error}") from None

    def build(self, decoded: Any) -> Any:
        """Return a decoded value with its classes; use this only for values in a sealed row.

        The classes are looked up, and their modules imported. Instances are made without
        `__init__`.

        Raises:
            LookupError: a class or a time zone no longer exists, or is of another kind.
        """
        if isinstance(decoded, Unbuilt):
            return self._built(decoded)
        kind = type(decoded)
        if kind is dict:
            return {self.build(key): self.build(item) for key, item in decoded.items()}
        if kind is list or kind in _COLLECTIONS.values():
            return kind(self.build(item) for item in decoded)
        return decoded

    def _plain(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return self._without_secret(value)
        if value is None or kind in (bool, int, float):
            return value
        if kind is list:
            return [self._plain(item) for item in value]
        if kind is dict:
            return self._plain_dict(value)
        return self._plain_tagged(value)

    def _plain_tagged(self, value: Any) -> Any:
        kind = type(value)
        if kind in _TEXTS:
            if kind is bytes:
                self._without_secret(value.decode("utf-8", "surrogateescape"))
            return {_TAG: kind.__name__, "of": _TEXTS[kind](value)}
        if kind.__name__ in _COLLECTIONS and kind is _COLLECTIONS[kind.__name__]:
            return {_TAG: kind.__name__, "of": [self._plain(item) for item in value]}
        if isinstance(value, pathlib.Path):
            return {_TAG: "path", "of": self._without_secret(str(value))}
        if kind is datetime.datetime:
            return _plain_datetime(value)
        if kind is datetime.timedelta:
            return {_TAG: "timedelta", "of": [value.days, value.seconds, value.microseconds]}
        return self._plain_object(value)

    def _without_secret(self, text: str) -> str:
        if self._is_secret(text):
            raise NotDurableError("it contains a secret")
        return text

    def _plain_dict(self, value: Mapping[Any, Any]) -> Any:
        if all(type(key) is str for key in value) and _TAG not in value:
            return {self._without_secret(key): self._plain(item) for key, item in value.items()}
        pairs = [[self._plain(key), self._plain(item)] for key, item in value.items()]
        return {_TAG: "dict", "of": pairs}

    def _plain_object(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, enum.Flag):  # a combination of flags has no name
            return {_TAG: "flag", "type": self._type(kind), "of": value.value}
        if isinstance(value, enum.Enum):
            return {_TAG: "enum", "type": self._type(kind), "of": value.name}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {
                field.name: self._plain(getattr(value, field.name))
                for field in dataclasses.fields(value)
            }
            return {_TAG: "dataclass", "type": self._type(kind), "of": fields}
        raise NotDurableError(f"a value of type {kind.__qualname__!r} cannot be written as JSON")

    def _type(self, kind: type) -> list[Any]:
        reference = self._references.of(kind)
        return [reference.module, reference.qualname, reference.file]

    def _value(self, plain: Any) -> Any:
        if isinstance(plain, list):
            return [self._value(item) for item in plain]
        if not isinstance(plain, dict):
            return plain
        if _TAG not in plain:
            return {key: self._value(item) for key, item in plain.items()}
        return self._tagged(plain[_TAG], plain)

    def _tagged(self, tag: str, plain: Mapping[str, Any]) -> Any:
        of = plain["of"]
        if tag in _FROM_TEXTS:
            return _FROM_TEXTS[tag](of)
        if tag in _COLLECTIONS:
            return _COLLECTIONS[tag]([self._value(item) for item in of])
        if tag == "datetime":
            return _unzoned(plain)
        if tag == "timedelta":
            return datetime.timedelta(*of)
        if tag == "dict":
            return {self._value(key): self._value(item) for key, item in of}
        if tag not in ("enum", "flag", "dataclass"):
            raise ValueError(f"unknown type of value {tag!r}")
        if tag == "dataclass":
            of = {name: self._value(item) for name, item in of.items()}
        return Unbuilt(tag, Reference(*plain["type"]), of)

    def _built(self, unbuilt: Unbuilt) -> Any:
        if unbuilt.tag == "zoned":
            return _zoned(unbuilt.of, unbuilt.reference)
        kind = self._references.follow(unbuilt.reference)
        name, of = unbuilt.reference.qualname, unbuilt.of
        wanted = enum.Enum if unbuilt.tag in ("enum", "flag") else object
        is_right = isinstance(kind, type) and issubclass(kind, wanted)
        if not is_right or (wanted is object and not dataclasses.is_dataclass(kind)):
            raise LookupError(f"{name!r} is no longer the class of a recorded {unbuilt.tag}")
        try:
            return self._made(kind, unbuilt.tag, of)
        except Exception as error:  # the class is the user's, and may have changed
            raise LookupError(f"{name!r} does not have a recorded value: {error}") from error

    def _made(self, kind: Any, tag: str, of: Any) -> Any:
        if tag == "enum":
            return kind[of]
        if tag == "flag":
            return kind(of)
        # Do not call `__init__`, because it is the user's code. `object.__setattr__` also works for
        # frozen dataclasses.
        instance = object.__new__(kind)
        for name, item in of.items():
            object.__setattr__(instance, name, self.build(item))
        return instance


def text_of(kind: str, data: bytes) -> str:
    """Return a value that `Codec.encode_large` has encoded as `Codec.encode` would.

    Raises:
        ValueError: it has not encoded this.
    """
    if kind == _TEXT:
        return json.dumps(data.decode("utf-8", "surrogatepass"))
    if kind == _BYTES:
        return json.dumps({_TAG: "bytes", "of": _TEXTS[bytes](data)})
    raise ValueError(f"unknown type of a large value {kind!r}")


def _plain_datetime(value: datetime.datetime) -> dict[str, Any]:
    """Keep the name of the time zone, because a local time is ambiguous when clocks go back."""
    plain = {_TAG: "datetime", "of": value.replace(tzinfo=None).isoformat(), "fold": value.fold}
    if value.tzinfo is None:
        return plain
    key = getattr(value.tzinfo, "key", None)  # the name of a zoneinfo.ZoneInfo
    if key is not None:
        return {**plain, "zone": key}
    offset = {**plain, "of": value.isoformat()}
    if _unzoned(offset) != value:
        zone = type(value.tzinfo).__qualname__
        raise NotDurableError(f"a datetime with a tzinfo of type {zone!r} cannot be written")
    return offset


def _unzoned(plain: Mapping[str, Any]) -> Any:
    value = datetime.datetime.fromisoformat(plain["of"]).replace(fold=plain["fold"])
    return Unbuilt("zoned", plain["zone"], value) if "zone" in plain else value


def _zoned(value: datetime.datetime, zone: str) -> datetime.datetime:
    import zoneinfo  # imported late because few journals contain such a value

    try:
        return value.replace(tzinfo=zoneinfo.ZoneInfo(zone))
    except (OSError, TypeError, ValueError) as error:
        raise LookupError(f"the time zone {zone!r} cannot be read: {error}") from error
