"""The arguments of `container` and `compose`, which are checked before an engine is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_plan import PlanDefinitionError, Secret
from pytest_plan.engine.calls.context import Context
from pytest_plan.steps import compose, container
from pytest_plan.steps.containers.arguments import Port, arguments
from tests.steps.running import cause_of

IMAGE = "plan-test/none"


def test_ports_have_three_spellings() -> None:
    """A number, `HOST:CONTAINER`, and a protocol after a slash."""
    given = arguments(IMAGE, None, [5432, "8080:80", "53/udp"], None, None)
    assert given.ports == [Port(5432, None, "tcp"), Port(80, 8080, "tcp"), Port(53, None, "udp")]


def test_variables_may_be_numbers_and_secrets(tmp_path: Path, monkeypatch: Any) -> None:
    """The container gets them as text; paths are those of pytest's working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sql").mkdir()
    given = arguments(
        IMAGE, [Path("/bin/prog"), "x"], [], {"A": 1, "B": Secret("hunter22")}, {"sql": "/sql:ro"}
    )
    assert given.command == ["/bin/prog", "x"]
    assert given.env == {"A": "1", "B": "hunter22"}
    assert given.volumes == [f"{tmp_path / 'sql'}:/sql:ro"]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"image": ""}, "image must be a name such as 'postgres:17', not ''"),
        ({"image": None}, "image must be a name such as 'postgres:17', not None"),
        ({"command": "serve -p 80"}, "command must be a list such as"),
        ({"command": {"a": 1}}, "command must be a list such as"),
        ({"ports": 5432}, "ports must be a list such as [5432, '8080:80', '53/udp'], not 5432"),
        ({"ports": "5432"}, "ports must be a list"),
        ({"ports": [0]}, "0 is no port"),
        ({"ports": [70000]}, "70000 is no port"),
        ({"ports": [True]}, "True is no port"),
        ({"ports": [None]}, "None is no port"),
        ({"ports": ["a:80"]}, "'a:80' is no port"),
        ({"ports": ["0.0.0.0:80:80"]}, "'0.0.0.0:80:80' is no port"),
        ({"ports": ["80/http"]}, "'http' is no protocol"),
        ({"ports": [80, "8080:80"]}, "80/tcp is there twice"),
        ({"env": ["A=1"]}, "env must be a dict of text"),
        ({"env": {"A": None}}, "the value of 'A' is of type NoneType"),
        ({"env": {"A": True}}, "the value of 'A' is of type bool"),
        ({"env": {"A=B": "1"}}, "'A=B' is no name of a variable"),
        ({"volumes": ["a:/b"]}, "volumes must be a dict such as"),
        ({"volumes": {"data": "/data"}}, "A named volume would outlive the run"),
        ({"volumes": {"/tmp": "data"}}, "'data' is no absolute path in the container"),
        ({"volumes": {"/tmp": "/data:rx"}}, "'/data:rx' is no absolute path in the container"),
        ({"volumes": {"/tmp": None}}, "'/tmp': None is no pair of paths"),
        ({"timeout": "soon"}, "container: timeout"),
        ({"pull_timeout": 0}, "container: pull_timeout"),
        ({"ready": "yes"}, "ready: 'yes' is not a condition"),
    ],
)
def test_wrong_arguments_of_container_are_named(wrong: dict[str, Any], text: str) -> None:
    """The message says what is expected; nothing is asked of an engine."""

    def exec(ctx: Context) -> None:
        container(ctx, **{"image": IMAGE, **wrong})

    error = cause_of(exec)
    assert isinstance(error, PlanDefinitionError)
    assert text in str(error)
    assert "container" in str(error) or "ready" in str(error)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"files": None}, "files must be the path of a compose file, or a list of paths, not None"),
        ({"files": []}, "files must be the path of a compose file"),
        ({"files": [1]}, "1 is not a path"),
        ({"files": "missing.yml"}, "use Path(__file__).with_name('compose.yml')"),
        ({"services": "web"}, "services must be a list such as ['web', 'db'], not 'web'"),
        ({"services": []}, "services must be a list"),
        ({"services": [1]}, "1 is not a name"),
        ({"ready": lambda: True}, "ready must be a dict such as {'web': http('/health')}"),
        ({"ready": {"web": 1}}, "ready: 1 is not a condition"),
        ({"timeout": -1}, "compose: timeout"),
    ],
)
def test_wrong_arguments_of_compose_are_named(
    wrong: dict[str, Any], text: str, tmp_path: Path
) -> None:
    """The message says what is expected; nothing is asked of an engine."""
    (tmp_path / "compose.yml").write_text("services: {}")

    def exec(ctx: Context) -> None:
        compose(ctx, **{"files": tmp_path / "compose.yml", **wrong})

    error = cause_of(exec)
    assert isinstance(error, PlanDefinitionError)
    assert text in str(error)
