"""Steps that are declared as classes, and the hook by which a later run uses them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.model.durations import Duration
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.secret import Secret
from pytest_plan.engine.shared.programs.readiness import Ready
from pytest_plan.steps.containers.compose import compose
from pytest_plan.steps.containers.container import container
from pytest_plan.steps.containers.engines.engine import (
    Engine,
    closing,
    connect,
    docker_library,
    explained,
)
from pytest_plan.steps.containers.engines.logs import Follower
from pytest_plan.steps.containers.engines.watching import failure_of, watch
from pytest_plan.steps.containers.value import Container


class ContainerStep(Step):
    """A step that runs a container. The attributes are the arguments of `container`.

    A run with `--plan-reuse` uses the container again if it still runs.
    """

    __module__ = "pytest_plan.steps"

    image: str
    command: Sequence[str] | None = None
    ports: Sequence[int | str] = ()
    env: Mapping[str, str | int | Secret[str]] | None = None
    volumes: Mapping[str | PathLike[str], str] | None = None
    ready: Ready | None = None
    pull_timeout: Duration = "10m"
    attach: str | None = None

    def exec(self, ctx: Context) -> Container:
        """Run the container."""
        return container(
            ctx,
            self.image,
            command=self.command,
            ports=self.ports,
            env=self.env,
            volumes=self.volumes,
            ready=self.ready,
            pull_timeout=self.pull_timeout,
            attach=self.attach,
        )

    def alive(self, ctx: Context, value: Container) -> bool:
        """Return whether the container runs."""
        return containers_run(ctx, value)


class ComposeStep(Step):
    """A step that runs the services of compose files. The attributes are those of `compose`.

    A run with `--plan-reuse` uses the containers again if they still run.
    """

    __module__ = "pytest_plan.steps"

    files: str | PathLike[str] | Sequence[str | PathLike[str]]
    services: Sequence[str] | None = None
    ready: Mapping[str, Ready] | None = None

    def exec(self, ctx: Context) -> dict[str, Container]:
        """Run the services."""
        return compose(ctx, self.files, services=self.services, ready=self.ready)

    def alive(self, ctx: Context, value: dict[str, Container]) -> bool:
        """Return whether the containers run."""
        return containers_run(ctx, value)


def containers_run(ctx: Context, value: Container | Mapping[str, Container]) -> bool:
    """Return whether the containers of a step still run: a hook for its option `alive`.

    From then on, what they write goes to the step's log again, and they are watched. A service
    that publishes no port may have exited with status 0, such as one that migrates a database.

    Args:
        ctx: the context of the step.
        value: the value of the step: a `Container`, or a dict of them.

    Raises:
        PlanDefinitionError: the value is neither.
        RuntimeError: no engine answers.
    """
    containers = _containers_in(value)
    with closing(connect(ctx)) as engine:
        found = {service: _found(engine, one.id) for service, one in containers.items()}
        if any(one is None or failure_of(one.attrs, service) for service, one in found.items()):
            return False
        for service, one in found.items():
            Follower(ctx, engine, one.id, f"{service} | " if service else "", new=True)
            watch(ctx, engine, one, service)
    return True


def _containers_in(value: Any) -> dict[str, Container]:
    found = dict(value) if isinstance(value, Mapping) else {"": value}
    if wrong := [one for one in found.values() if not isinstance(one, Container)]:
        raise PlanDefinitionError(
            "alive=containers_run is for a step whose value is a Container or a dict of them, "
            f"not one with {wrong[0]!r}"
        )
    return found


def _found(engine: Engine, container_id: str) -> Any:
    """Return a container of the library `docker`; None if it was removed."""
    with explained(f"cannot look at container {container_id[:12]}"):
        try:
            return engine.client.containers.get(container_id)
        except docker_library().errors.NotFound:
            return None
