"""The options of a step."""

from __future__ import annotations

from typing import Any

import pytest
import tenacity

from pytest_plan.engine.definition.options import OPTION_NAMES, StepOptions, check_options
from pytest_plan.engine.model.errors import PlanDefinitionError


def check(**options: Any) -> StepOptions:
    """Check options of the step `db` declared at `conftest.py:7`."""
    return check_options(options, "db", "conftest.py:7")


def test_defaults_are_no_timeout_and_no_retry() -> None:
    """Cleanup may take a minute, and runs the hook only after success."""
    options = check()
    assert (options.needs, options.retries, options.timeout, options.skip) == (None, 0, None, None)
    assert options.retry_on == (Exception,)
    assert (options.cleanup_timeout, options.cleanup_when) == (60.0, "succeeded")


def test_an_unknown_option_gets_a_suggestion_and_the_known_options() -> None:
    """The message also has the step and where it is declared."""
    with pytest.raises(PlanDefinitionError) as caught:
        check(retry=3)
    text = str(caught.value)
    assert "'db' (conftest.py:7): unknown option 'retry'; did you mean 'retr" in text
    for name in OPTION_NAMES:
        assert name in text
    assert caught.value.step == "db"


@pytest.mark.parametrize(
    ("option", "value", "checked"),
    [
        ("needs", None, None),
        ("needs", (), ()),
        ("needs", "net", ("net",)),
        ("needs", ["net", "dns", "net"], ("net", "dns")),
        ("needs", (name for name in ["net"]), ("net",)),
        ("retries", 0, 0),
        ("retry_wait", "2s", 2.0),
        ("retry_wait", 0, 0.0),
        ("retry_wait", None, None),
        ("retry_on", KeyError, (KeyError,)),
        ("retry_on", [KeyError, OSError], (KeyError, OSError)),
        ("timeout", "1m", 60.0),
        ("timeout", None, None),
        ("cleanup_timeout", 5, 5.0),
        ("cleanup_when", "attempted", "attempted"),
        ("pause", "2s", 2.0),
        ("autouse", True, True),
        ("eager", True, True),
        ("after_tests", True, True),
        ("skip", "why", "why"),
    ],
)
def test_accepted_values(option: str, value: Any, checked: Any) -> None:
    """Each accepted form is converted to one type."""
    assert getattr(check(**{option: value}), option) == checked


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("needs", 7),
        ("needs", [7]),
        ("needs", [print]),
        ("retries", -1),
        ("retries", 1.5),
        ("retries", "2"),
        ("retries", True),
        ("retries", None),
        ("retry_wait", "soon"),
        ("retry_wait", -1),
        ("retry_wait", tenacity.wait_fixed),
        ("retry_on", "KeyError"),
        ("retry_on", KeyError()),
        ("retry_on", [KeyError, 7]),
        ("retry_on", int),
        ("timeout", 0),
        ("timeout", "-5m"),
        ("timeout", "soon"),
        ("cleanup_timeout", 0),
        ("cleanup_when", "always"),
        ("cleanup_when", None),
        ("pause", -1),
        ("autouse", 1),
        ("eager", "yes"),
        ("after_tests", "passed"),
        ("skip", True),
    ],
)
def test_refused_values(option: str, value: Any) -> None:
    """The message has the option, the step, where it is declared, and the value."""
    with pytest.raises(PlanDefinitionError) as caught:
        check(**{option: value})
    text = str(caught.value)
    assert f"{option} of step 'db' (conftest.py:7)" in text
    assert repr(value) in text


def test_a_tenacity_wait_is_kept_unchanged() -> None:
    """It is called later, with tenacity's retry state."""
    wait = tenacity.wait_fixed(2)
    assert check(retry_wait=wait).retry_wait is wait


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("eager", "it cannot begin both before collection and after tests"),
        ("autouse", "no test would be left that does not need it"),
    ],
)
def test_options_that_contradict_after_tests(other: str, reason: str) -> None:
    """The message has both options, the reason, and what to change."""
    with pytest.raises(PlanDefinitionError) as caught:
        check(after_tests=True, **{other: True})
    assert str(caught.value) == (
        f"step 'db' (conftest.py:7) has both after_tests and {other}, but {reason}: "
        "remove one of the two"
    )
