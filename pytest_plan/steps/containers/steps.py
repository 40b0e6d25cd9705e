"""Steps with containers that are declared as classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.model.durations import Duration
from pytest_plan.engine.model.secret import Secret
from pytest_plan.engine.shared.programs.readiness import Ready
from pytest_plan.steps.containers.compose import compose
from pytest_plan.steps.containers.container import container
from pytest_plan.steps.containers.value import Container


class ContainerStep(Step):
    """A step that runs a container. The attributes are the arguments of `container`."""

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


class ComposeStep(Step):
    """A step that runs the services of compose files. The attributes are those of `compose`."""

    __module__ = "pytest_plan.steps"

    files: str | PathLike[str] | Sequence[str | PathLike[str]]
    services: Sequence[str] | None = None
    ready: Mapping[str, Ready] | None = None

    def exec(self, ctx: Context) -> dict[str, Container]:
        """Run the services."""
        return compose(ctx, self.files, services=self.services, ready=self.ready)
