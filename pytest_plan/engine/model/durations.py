"""Parses durations that users write, and formats durations for reports."""

from __future__ import annotations

import contextlib
import math
from datetime import timedelta
from typing import TypeAlias

from pytest_plan.engine.model.errors import PlanDefinitionError

Duration: TypeAlias = "str | int | float | timedelta"


def parse_duration(value: object, what: str, *, zero: bool = True) -> float:
    """Return `value` in seconds.

    Args:
        value: a number of seconds, a `timedelta`, or text such as "90s", "1h 30m" or "500ms".
        what: the subject of the error message, as in "timeout of step 'web'".
        zero: whether 0 is allowed.

    Raises:
        PlanDefinitionError: `value` is not a duration, is negative or not finite, or is 0 although
            `zero` is false.
    """
    seconds = _seconds(value)
    if seconds is None or not math.isfinite(seconds):
        raise PlanDefinitionError(
            f"{what}: {value!r} is not a duration; "
            "use seconds or text such as '90s', '5m' or '1h 30m'"
        )
    if seconds < 0:
        raise PlanDefinitionError(f"{what}: {value!r} is negative; use 0 or more")
    if seconds == 0 and not zero:
        raise PlanDefinitionError(f"{what}: {value!r} is zero; use a duration longer than zero")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        with contextlib.suppress(OverflowError):
            return float(value)
        return math.inf
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _seconds_of_text(value.strip())
    return None


def _seconds_of_text(text: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(text.removesuffix("s"))
    # Imported late because most runs parse no text, only numbers of seconds.
    import pytimeparse2

    seconds = pytimeparse2.parse(text)
    return float(seconds) if isinstance(seconds, (int, float)) else None


def format_duration(seconds: float) -> str:
    """Format seconds as text, such as `0.42s`, `12.3s`, `2m 05s` or `1h 02m`."""
    if seconds < 9.995:
        return f"{seconds:.2f}s"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m"
