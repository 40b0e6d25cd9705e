"""Values encoded as text and decoded again."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
import zoneinfo
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_plan.engine.journal.codec import Codec, Unbuilt
from pytest_plan.engine.journal.reference import NotDurableError, References
from pytest_plan.engine.model.secret import Secret

CODEC = Codec(References(Path(__file__).parent))


def restored(text: str) -> Any:
    """Return a value as a run that restores its step gets it."""
    return CODEC.build(CODEC.decode(text))


class Colour(enum.Enum):
    """A plain enum."""

    RED = object()  # the value is not used


class Number(enum.IntEnum):
    """An enum whose members are also numbers."""

    ONE = 1


class Rights(enum.Flag):
    """An enum whose members can be combined."""

    READ = enum.auto()
    WRITE = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """A value like those of users."""

    host: str
    ports: tuple[int, ...] = ()
    log: Path | None = None


class Text(str):
    """A subclass of str, which JSON would turn into a plain str."""

    __slots__ = ()


Point = namedtuple("Point", "x y")

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary() | st.dates() | st.datetimes(timezones=st.none() | st.timezones()) | st.times()
    | st.timedeltas() | st.uuids() | st.decimals(allow_nan=False) | st.sampled_from(Rights)
    | st.builds(Server, st.text()),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple)
    | st.dictionaries(st.text() | st.integers() | st.sampled_from(["$", "of"]), inner),
    max_leaves=10,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(plain)
def test_a_value_survives_encoding(value: Any) -> None:
    """The decoded value is equal and of the same type, for any nesting."""
    back = restored(CODEC.encode(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        frozenset({"a", (1, 2)}),
        Path("/a/ä"),
        Colour.RED,
        Number.ONE,
        Rights.READ | Rights.WRITE,
        Rights(0),
        {(1, "a"): b"\0", None: 1},
        {"$": "bytes", "of": "x"},
        decimal.Decimal("1E+3"),
        math.inf,
        "\ud800 \0",
        Server("h", (1, 2), Path("log")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_special_values_survive_encoding(value: Any) -> None:
    """These are all supported types, and dicts that look like the format's own marks."""
    back = restored(CODEC.encode(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("hour", [1, 2, 12])
def test_a_datetime_keeps_its_zone_and_fold(hour: int, fold: int) -> None:
    """This includes the hour when clocks go back: on that day 2:59 comes twice."""
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    time = datetime.datetime(2024, 10, 27, hour, 59, tzinfo=zone, fold=fold)
    back = restored(CODEC.encode(time))
    assert (back, back.fold, back.utcoffset()) == (time, fold, time.utcoffset())
    assert back.tzinfo is zone


class Ambiguous(datetime.tzinfo):
    """A time zone without a name, whose offset depends on the fold."""

    def utcoffset(self, dt: datetime.datetime | None) -> datetime.timedelta:
        """Return two hours, or one hour when the time comes for the second time."""
        return datetime.timedelta(hours=1 if dt and dt.fold else 2)

    def dst(self, dt: datetime.datetime | None) -> None:
        """Return None, which means unknown."""

    def tzname(self, dt: datetime.datetime | None) -> str:
        """Return a name that cannot be looked up."""
        return "?"


def test_a_datetime_that_would_be_decoded_differently_is_refused() -> None:
    """Without a `ZoneInfo`, only the offset is written, which does not include the fold."""
    time = datetime.datetime(2024, 10, 27, 2, 59, tzinfo=Ambiguous())
    with pytest.raises(NotDurableError, match="Ambiguous"):
        CODEC.encode(time)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "object"),
        (Secret("xxxx"), "Secret"),
        ([{"a": (Secret("hidden"),)}], "Secret"),
        (Server("h", Secret(1)), "Secret"),  # type: ignore[arg-type]
        (Point(1, 2), "Point"),
        (Text("t"), "Text"),
        (print, "builtin_function_or_method"),
        (10**5000, "digits"),
        (Server, "type"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_refusal_of_a_value_has_its_type(value: Any, named: str) -> None:
    """The message never has the value, which may be secret."""
    with pytest.raises(NotDurableError, match=named):
        CODEC.encode(value)


def test_a_local_class_is_refused() -> None:
    """A later process could not find it."""

    @dataclasses.dataclass
    class Local:
        """A class inside a function."""

        number: int = 1

    with pytest.raises(NotDurableError, match="nested"):
        CODEC.encode(Local())


def test_a_value_that_contains_itself_is_refused() -> None:
    """Unlimited nesting does not crash the encoder."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotDurableError, match="contains itself"):
        CODEC.encode(value)


@pytest.mark.parametrize(
    "value",
    ["a canary here", ["canary"], {"canary": 1}, {1: "canary"}, b"\xffcanary", Path("canary")],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_contains_a_secret_is_refused(value: Any) -> None:
    """The secret may be in a text, a key, bytes or a path."""
    codec = Codec(References(Path("/")), lambda text: "canary" in text)
    with pytest.raises(NotDurableError) as caught:
        codec.encode(value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"$": "new", "of": 1}', '{"$": "bytes"}', '{"$": "UUID", "of": "x"}'],
)
def test_a_text_in_another_format_is_refused(text: str) -> None:
    """`decode` raises ValueError or LookupError."""
    with pytest.raises((ValueError, LookupError)):
        CODEC.decode(text)


def test_a_missing_class_is_reported() -> None:
    """The message has the file and the name of the class."""
    text = CODEC.encode(Server("h")).replace('"Server"', '"Server2"')
    with pytest.raises(LookupError, match=r"test_codec\.py no longer defines 'Server2'"):
        restored(text)


def test_decoding_a_dataclass_runs_no_user_code() -> None:
    """The instance is created without calling `__init__`."""
    text = CODEC.encode(Server("h"))
    assert json.loads(text)["$"] == "dataclass"
    assert restored(text) == Server("h")


def test_hashable_values_in_a_set_survive_encoding() -> None:
    """UUIDs, paths, dataclasses and tuples are hashable again after decoding."""
    value = {uuid.UUID(int=1), Path("a"), Server("h"), (1, frozenset({2}))}
    assert restored(CODEC.encode(value)) == value


@pytest.mark.parametrize(
    "kind", ["enum", "flag", "dataclass"], ids=["an enum", "a flag", "a dataclass"]
)
def test_decoding_looks_up_no_class(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    """A module is imported only when the value is built; decoding alone runs no code."""
    (tmp_path / "decoded_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    text = json.dumps({"$": kind, "type": ["decoded_module", "Kind", None], "of": {}})
    decoded = CODEC.decode(f"[{text}]")
    assert isinstance(decoded[0], Unbuilt)
    with pytest.raises(SystemExit, match="imported"):
        CODEC.build(decoded)


def test_decoding_reads_no_time_zone() -> None:
    """The name of a time zone is the name of a file."""
    text = '{"$": "datetime", "of": "2024-01-01T00:00:00", "fold": 0, "zone": "../../etc/passwd"}'
    decoded = CODEC.decode(text)
    assert (decoded.tag, decoded.reference) == ("zoned", "../../etc/passwd")
    with pytest.raises(LookupError, match="cannot be read"):
        CODEC.build(decoded)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("dataclass", "Colour"), ("enum", "Server"), ("dataclass", "restored"), ("enum", "CODEC")],
)
def test_a_class_of_another_kind_is_not_used(kind: str, name: str) -> None:
    """Only a dataclass is filled in, and only an enum is asked for a member."""
    text = json.dumps({"$": kind, "type": [__name__, name, None], "of": {}})
    with pytest.raises(LookupError, match="no longer the class"):
        restored(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"$": [], "of": 1}',
        '{"$": "bytes", "of": [1]}',
        '{"$": "Decimal", "of": "x"}',
        '{"$": "path", "of": {"a": 1}}',
        '{"$": "timedelta", "of": [1e300, 0, 0]}',
        '{"$": "dict", "of": [[[1], 2]]}',
        '{"$": "enum", "type": [1], "of": 1}',
        "9" * 5000,
    ],
    ids=lambda text: text[:24],
)
def test_any_other_text_is_a_value_error(text: str) -> None:
    """Whatever the text contains, `decode` raises nothing else."""
    with pytest.raises(ValueError, match=r"not the text of a value|Exceeds the limit"):
        CODEC.decode(text)
