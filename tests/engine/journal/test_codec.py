"""Values as text, and back."""

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
from hypothesis import given
from hypothesis import strategies as st

from pytest_plan.engine.journal.codec import Codec
from pytest_plan.engine.journal.reference import NotDurableError, References
from pytest_plan.engine.model.secret import Secret

CODEC = Codec(References(Path(__file__).parent))


class Colour(enum.Enum):
    """A plain enum."""

    RED = object()  # what its value is does not matter


class Number(enum.IntEnum):
    """One whose members are numbers, too."""

    ONE = 1


class Rights(enum.Flag):
    """One whose members can be put together."""

    READ = enum.auto()
    WRITE = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """A value as users write them."""

    host: str
    ports: tuple[int, ...] = ()
    log: Path | None = None


class Text(str):
    """Not what JSON would make of it."""

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


@given(plain)
def test_what_is_written_is_read_back(value: Any) -> None:
    """Equal, and of the same type, however it is nested."""
    back = CODEC.decode(CODEC.encode(value))
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
def test_these_are_read_back(value: Any) -> None:
    """Each kind that the format knows, and texts that look like its own marks."""
    back = CODEC.decode(CODEC.encode(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("hour", [1, 2, 12])
def test_a_time_keeps_its_zone_and_fold(hour: int, fold: int) -> None:
    """Also in the hour that a clock is set back: 2:59 comes twice on that day."""
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    time = datetime.datetime(2024, 10, 27, hour, 59, tzinfo=zone, fold=fold)
    back = CODEC.decode(CODEC.encode(time))
    assert (back, back.fold, back.utcoffset()) == (time, fold, time.utcoffset())
    assert back.tzinfo is zone


class Ambiguous(datetime.tzinfo):
    """A zone without a name, whose offset depends on the fold."""

    def utcoffset(self, dt: datetime.datetime | None) -> datetime.timedelta:
        """Two hours; one, when the hour comes the second time."""
        return datetime.timedelta(hours=1 if dt and dt.fold else 2)

    def dst(self, dt: datetime.datetime | None) -> None:
        """Not known."""

    def tzname(self, dt: datetime.datetime | None) -> str:
        """A name that nobody can look up."""
        return "?"


def test_a_time_that_would_come_back_as_another_is_refused() -> None:
    """A zone that is no `ZoneInfo` has its offset alone, which does not tell the fold."""
    time = datetime.datetime(2024, 10, 27, 2, 59, tzinfo=Ambiguous())
    with pytest.raises(NotDurableError, match="Ambiguous"):
        CODEC.encode(time)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "object"),
        (Secret("x"), "Secret"),
        ([{"a": (Secret("x"),)}], "Secret"),
        (Server("h", Secret(1)), "Secret"),  # type: ignore[arg-type]
        (Point(1, 2), "Point"),
        (Text("t"), "Text"),
        (print, "builtin_function_or_method"),
        (10**5000, "digits"),
        (Server, "type"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_written_is_refused_by_its_type(value: Any, named: str) -> None:
    """Never its value, which may be what nobody should see."""
    with pytest.raises(NotDurableError, match=named):
        CODEC.encode(value)


def test_a_class_of_a_function_is_refused() -> None:
    """No later process could find it."""

    @dataclasses.dataclass
    class Local:
        """Nobody else has it."""

        number: int = 1

    with pytest.raises(NotDurableError, match="nested"):
        CODEC.encode(Local())


def test_what_holds_itself_is_refused() -> None:
    """As is what is nested without end."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotDurableError, match="holds itself"):
        CODEC.encode(value)


@pytest.mark.parametrize(
    "value",
    ["a canary here", ["canary"], {"canary": 1}, {1: "canary"}, b"\xffcanary", Path("canary")],
    ids=lambda value: type(value).__name__,
)
def test_what_holds_a_secret_is_refused(value: Any) -> None:
    """In a text, a key, bytes, a path."""
    codec = Codec(References(Path("/")), lambda text: "canary" in text)
    with pytest.raises(NotDurableError) as caught:
        codec.encode(value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"$": "new", "of": 1}', '{"$": "bytes"}', '{"$": "UUID", "of": "x"}'],
)
def test_a_text_of_somebody_else_is_refused(text: str) -> None:
    """As a ValueError or LookupError, for the caller to tell."""
    with pytest.raises((ValueError, LookupError)):
        CODEC.decode(text)


def test_a_class_that_is_gone_is_named() -> None:
    """With the file that it was in."""
    text = CODEC.encode(Server("h")).replace('"Server"', '"Server2"')
    with pytest.raises(LookupError, match=r"test_codec\.py has no 'Server2' any more"):
        CODEC.decode(text)


def test_nothing_runs_when_a_dataclass_is_read() -> None:
    """Not even its own code: what was checked when it was made is not checked again."""
    text = CODEC.encode(Server("h"))
    assert json.loads(text)["$"] == "dataclass"
    assert CODEC.decode(text) == Server("h")


def test_uuids_and_paths_in_sets_are_read_back() -> None:
    """What can be hashed before can be hashed after."""
    value = {uuid.UUID(int=1), Path("a"), Server("h"), (1, frozenset({2}))}
    assert CODEC.decode(CODEC.encode(value)) == value
