"""Fixtures of the tests with containers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.results import PlanResult, StepError
from pytest_plan.engine.plan import Plan
from tests.plugin.surroundings import outside, project, quick_escalation  # noqa: F401
from tests.steps.containers.engines import address_of, client_of, what_is_there

Exec = Callable[[Context], Any]


class Runner:
    """Runs a step with a name that nothing else on the engine has.

    Attributes:
        name: the name of the step.
        address: the address of the engine.
        client: a client that looks at the engine from outside.
    """

    def __init__(self, name: str, address: str, client: Any) -> None:
        self.name = name
        self.address = address
        self.client = client

    def run(
        self,
        exec: Exec,
        during: Callable[[Any], Any] = lambda value: value,
        *,
        host: str = "127.0.0.1",
        **options: Any,
    ) -> Any:
        """Run the step, and return what `during` returns for its value meanwhile."""
        plan = Plan(host=host)
        plan.add_step(GenericStep(exec=exec), name=self.name, **{"timeout": "60s", **options})
        with plan.provisioned() as state:
            return during(state.get(self.name))

    def failure(self, exec: Exec, **options: Any) -> StepError:
        """Run the step, which must fail, and return its error."""
        with pytest.raises(StepError) as caught:
            self.run(exec, **options)
        return caught.value

    def message(self, exec: Exec, **options: Any) -> str:
        """Run the step, which must fail, and return the message of its exception."""
        failure = self.failure(exec, **options)
        return str(failure.__cause__ or failure)

    def log(self, exec: Exec, **options: Any) -> str:
        """Run the step, which must fail, and return the end of its log."""
        result = self.failure(exec, **options).result
        assert isinstance(result, PlanResult)
        return result.steps[self.name].log_tail


@pytest.fixture(params=["docker", "podman"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """A runner with a real engine, on which nothing is left afterwards."""
    yield from _runner(request, monkeypatch, request.param)


@pytest.fixture
def docker_runner(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runner]:
    """As `runner`, but with Docker only."""
    yield from _runner(request, monkeypatch, "docker")


def _runner(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> Iterator[Runner]:
    address = address_of(kind)
    monkeypatch.setenv("DOCKER_HOST", address)
    name = f"step{zlib.crc32(request.node.nodeid.encode()):x}"
    with client_of(address) as client:
        yield Runner(name, address, client)
        assert what_is_there(client, name) == []
