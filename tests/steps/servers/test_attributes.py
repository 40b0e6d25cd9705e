"""The attributes of the classes for servers are checked before anything runs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pytest_plan import PlanDefinitionError
from pytest_plan.steps import S3, Kafka, MariaDB, PostgreSQL, RabbitMQ, Redis
from tests.plugin.project import Project, refuses

SETTINGS = "a dict from names to text or numbers"
WRONG: list[tuple[type[Any], str, object, str]] = [
    (PostgreSQL, "version", 16, "text such as '16' or '16.4', or None"),
    (PostgreSQL, "version", "latest", "text such as '16' or '16.4', or None"),
    (PostgreSQL, "bin", 3, "the path of a folder or a program, or None"),
    (PostgreSQL, "database", 'a"b', "a name of letters, digits, '_' and '-'"),
    (PostgreSQL, "user", "", "a name of letters, digits, '_' and '-'"),
    (PostgreSQL, "password", "a\nb", "printable text, or None for a random one"),
    (PostgreSQL, "settings", ["fsync"], SETTINGS),
    (MariaDB, "settings", {"a b": 1}, SETTINGS),
    (RabbitMQ, "settings", {"a": "b\nc"}, SETTINGS),
    (Redis, "settings", {"a": None}, SETTINGS),
    (Redis, "database", 16, "a number from 0 to 15"),
    (Redis, "database", True, "a number from 0 to 15"),
    (RabbitMQ, "user", None, "a name of letters, digits, '_' and '-'"),
    (Kafka, "attach", "KAFKA SERVERS", "the name of an environment variable, or None"),
    (S3, "attach", 1, "the name of an environment variable, or None"),
]


@pytest.mark.parametrize(("kind", "name", "value", "wanted"), WRONG)
def test_a_value_of_another_kind_is_refused(
    kind: type[Any], name: str, value: object, wanted: str
) -> None:
    """The message says what the value must be, for a keyword and for a class attribute."""
    message = re.escape(f"{name} of {kind.__name__} must be {wanted}, not {value!r}")
    with pytest.raises(PlanDefinitionError, match=f"^{message}$"):
        kind(**{name: value})
    mine = type(kind.__name__, (kind,), {name: value})
    with pytest.raises(PlanDefinitionError, match=f"^{message}$"):
        mine()


def test_an_unknown_attribute_is_refused() -> None:
    """The message suggests the nearest name, and lists all."""
    with pytest.raises(PlanDefinitionError) as caught:
        PostgreSQL(versoin="16")
    assert str(caught.value) == (
        "PostgreSQL has no attribute 'versoin'; did you mean 'version'? (its attributes: version, "
        "bin, database, user, password, settings, attach, and the options of every step)"
    )


def test_a_setting_of_the_step_itself_is_refused() -> None:
    """A port of the user's choice would not be in the value."""
    with pytest.raises(PlanDefinitionError, match="the step itself chooses 'bind-address'"):
        MariaDB(settings={"bind-address": "0.0.0.0"})


def test_options_methods_and_private_names_are_no_attributes() -> None:
    """A class may have what any step has, and helpers of its own."""

    class Mine(Redis):
        retries = 2
        needs = ("a",)
        timeout = "5s"
        database = 3
        _note = "private"

        @property
        def more(self) -> str:
            return self._note

        def post_exec(self) -> None:
            pass

    assert Mine().database == 3


def test_the_error_comes_at_collection_and_names_the_place(project: Project) -> None:
    """No step runs."""
    project.steps(
        "from pytest_plan.steps import Redis",
        "@pytest.mark.plan_step\ndef first(): note('ran')",
        "@pytest.mark.plan_step\nclass cache(Redis):\n    versoin = '7'",
    )
    project.tests("def test_it(cache): pass")
    refuses(
        project.run(), "conftest.py:10: cache has no attribute 'versoin'; did you mean 'version'?"
    )
    assert project.calls == []
