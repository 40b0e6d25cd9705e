"""Durations: parsed from what people write, and formatted for people to read."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pytest_plan.engine.model.durations import format_duration, parse_duration
from pytest_plan.engine.model.errors import PlanDefinitionError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        (90, 90),
        (1.5, 1.5),
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        (" 90s ", 90),
        ("5m", 300),
        ("1h 30m", 5400),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("2 minutes", 120),
        ("1d", 86400),
        (timedelta(minutes=2), 120),
        (timedelta(milliseconds=1), 0.001),
    ],
)
def test_a_duration_is_parsed_to_seconds(value: Any, seconds: float) -> None:
    """Numbers, text and timedelta objects are accepted, and the result is a float."""
    parsed = parse_duration(value, "limit")
    assert parsed == pytest.approx(seconds)
    assert type(parsed) is float


@pytest.mark.parametrize(
    "value",
    [
        "soon", "", "5 apples", "m", None, True, False, [], b"5s", object,
        float("nan"), float("inf"), "nan", "inf", "1e999", 10**400,
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_an_invalid_duration_is_refused(value: Any) -> None:
    """The message names the option and shows a valid example."""
    with pytest.raises(PlanDefinitionError) as caught:
        parse_duration(value, "limit of x")
    assert str(caught.value).startswith("limit of x: ")
    assert "'90s'" in str(caught.value)


@pytest.mark.parametrize("value", [-1, -0.5, "-1", "-5m", timedelta(seconds=-1)])
def test_a_negative_duration_is_refused(value: Any) -> None:
    """The message says that the value is negative."""
    with pytest.raises(PlanDefinitionError, match="negative"):
        parse_duration(value, "limit")


@pytest.mark.parametrize("value", [0, 0.0, "0s", timedelta(0)])
def test_zero_can_be_refused(value: Any) -> None:
    """A pause may be zero, a timeout may not."""
    assert parse_duration(value, "pause") == 0
    with pytest.raises(PlanDefinitionError, match="zero"):
        parse_duration(value, "timeout", zero=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00s"),
        (0.421, "0.42s"),
        (9.994, "9.99s"),
        (9.996, "10.0s"),
        (12.34, "12.3s"),
        (59.94, "59.9s"),
        (59.96, "1m 00s"),
        (125, "2m 05s"),
        (3599.4, "59m 59s"),
        (3599.6, "1h 00m"),
        (3720, "1h 02m"),
        (90000, "25h 00m"),
    ],
)
def test_a_duration_is_formatted_for_people(seconds: float, text: str) -> None:
    """The text is rounded to about three digits and is never `60.0s`."""
    assert format_duration(seconds) == text
