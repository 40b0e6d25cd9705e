"""`seconds_to_wait`, the wait before the next attempt."""

from __future__ import annotations

from typing import Any

import pytest
import tenacity

from pytest_plan.engine.execution.attempt import seconds_to_wait
from pytest_plan.engine.model.errors import PlanDefinitionError

ERROR = ValueError("text")


@pytest.mark.parametrize("seconds", [0, 2, 1.5])
def test_a_number_is_the_same_each_time(seconds: float) -> None:
    """A number of seconds applies to every attempt."""
    assert {seconds_to_wait(seconds, attempt, ERROR) for attempt in (1, 2, 50)} == {seconds}


def test_the_default_stays_between_half_a_second_and_thirty() -> None:
    """This holds for every attempt, and the jitter varies."""
    waits = [seconds_to_wait(None, attempt, ERROR) for attempt in range(1, 2000)]
    assert min(waits) >= 0.5
    assert max(waits) <= 30
    assert len({seconds_to_wait(None, 1, ERROR) for _ in range(20)}) > 1


def test_a_wait_sees_the_attempt_and_its_error() -> None:
    """It gets the retry state that tenacity documents."""
    seen: list[Any] = []

    def wait(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        seen.extend([state.attempt_number, state.outcome.exception()])
        return 3

    assert seconds_to_wait(wait, 2, ERROR) == 3
    assert seen == [2, ERROR]


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [
        (tenacity.wait_none(), 0),
        (tenacity.wait_fixed(2), 2),
        (tenacity.wait_exponential(multiplier=1, max=5), 4),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(2)), 2),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), 3),
    ],
)
def test_waits_of_tenacity_work(wait: Any, seconds: float) -> None:
    """Single and combined waits work; here before the fourth attempt."""
    assert seconds_to_wait(wait, 3, ERROR) == seconds


@pytest.mark.parametrize("junk", [-1, None, "2", float("nan"), float("inf"), [1]])
def test_what_is_no_time_to_wait_is_refused(junk: Any) -> None:
    """The message shows the value."""
    with pytest.raises(PlanDefinitionError, match="retry_wait returned"):
        seconds_to_wait(lambda _: junk, 1, ERROR)
