"""The condition `log_line`."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pytest_plan import PlanDefinitionError
from pytest_plan.steps import log_line
from tests.steps.ready.targets import Fixed, answer


def test_a_line_that_matches_is_ready() -> None:
    """The expression may match anywhere in the line, which need not have ended."""
    assert answer(log_line("is ready"), Fixed(output="x\nthe base is ready to go")) is None
    assert answer(log_line(re.compile("READY", re.IGNORECASE)), Fixed(output="ready\n")) is None
    assert answer(log_line("^b$"), Fixed(output="a\nb\nc\n")) is None


def test_several_lines_can_be_required() -> None:
    """PostgreSQL's image writes its line twice, for example."""
    assert answer(log_line("ready", times=2), Fixed(output="ready\nready\n")) is None
    one = answer(log_line("ready", times=2), Fixed(output="ready, ready\n"))
    assert one == "log_line 'ready': 1 of 2 lines"


def test_the_answer_has_the_last_line() -> None:
    """Or says that there is none."""
    assert answer(log_line("ready"), Fixed(output="a\n\nbooting\n \n")) == (
        "log_line 'ready': no such line; the last one is 'booting'"
    )
    assert answer(log_line("ready"), Fixed()) == "log_line 'ready': nothing was written"


@pytest.mark.parametrize("junk", ["(", "*", None, 5, b"x"])
def test_what_is_no_expression_is_refused(junk: Any) -> None:
    """PlanDefinitionError says what is wrong with it."""
    with pytest.raises(PlanDefinitionError, match="log_line: "):
        log_line(junk)


@pytest.mark.parametrize("junk", [0, -1, True, 1.5, "2", None])
def test_the_number_of_lines_is_at_least_one(junk: Any) -> None:
    """PlanDefinitionError says so."""
    with pytest.raises(PlanDefinitionError, match=r"times is .*; use a number of at least 1"):
        log_line("x", times=junk)
