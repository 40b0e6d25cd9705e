"""How long to wait before the next attempt: tenacity's business."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pytest_plan.engine.model.errors import PlanDefinitionError

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
_JITTER = 1.0


def seconds_to_wait(
    wait: float | Callable[..., float] | None, attempt: int, error: BaseException
) -> float:
    """Return the seconds between a failed attempt and the next.

    Args:
        wait: seconds, a tenacity wait, or None for exponential with jitter, 0.5 to 30 s.
        attempt: the attempt that failed, counted from 1.
        error: what it failed with.

    Raises:
        PlanDefinitionError: the tenacity wait returned no usable number.
    """
    if isinstance(wait, (int, float)):
        return float(wait)
    # Imported here: tenacity brings asyncio, and most plans never retry.
    import tenacity

    if wait is None:
        longest = LONGEST_WAIT - _JITTER
        wait = tenacity.wait_exponential(multiplier=FIRST_WAIT, max=longest) + tenacity.wait_random(
            0, _JITTER
        )
    state: Any = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    state.set_exception((type(error), error, error.__traceback__))
    seconds: object = wait(state)
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds) or seconds < 0:
        raise PlanDefinitionError(f"retry_wait returned {seconds!r}, which is no time to wait")
    return float(seconds)
