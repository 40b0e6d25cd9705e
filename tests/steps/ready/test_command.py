"""The condition `command`."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_plan import PlanDefinitionError
from pytest_plan.steps import command
from tests.steps.ready.targets import Fixed, answer


def test_a_command_that_succeeds_is_ready() -> None:
    """Placeholders for the ports are replaced."""
    target = Fixed({"port": 42, "admin": 43})
    script = 'test "$1 $2 $3" = "42 43 127.0.0.1"'
    argv = ["sh", "-c", script, "sh", "{port}", "{port:admin}", "{host}"]
    assert answer(command(argv), target) is None


def test_a_command_that_fails_is_the_answer() -> None:
    """The answer has the command, its status and its output on one line."""
    assert answer(command(["sh", "-c", "echo not; echo yet >&2; exit 3"]), Fixed()) == (
        "command sh -c 'echo not; echo yet >&2; exit 3': exit status 3; not yet"
    )
    assert answer(command(["false"]), Fixed()) == "command false: exit status 1"


def test_a_command_that_is_missing_is_an_error_of_its_try() -> None:
    """The wait goes on, because the server may install it."""
    with pytest.raises(FileNotFoundError):
        answer(command(["/no/such/program"]), Fixed())


def test_a_command_that_does_not_end_is_the_answer() -> None:
    """It is ended after the timeout of one try."""
    assert answer(command(["sleep", "60"], timeout=0.2), Fixed()) == (
        "command sleep 60: no end after 0.20s"
    )


@pytest.mark.parametrize("junk", ["true", b"true", []])
def test_a_command_is_a_list(junk: Any) -> None:
    """PlanDefinitionError says so."""
    with pytest.raises(PlanDefinitionError, match="command: argv must be a list"):
        command(junk)
