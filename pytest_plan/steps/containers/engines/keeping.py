"""Finds the containers of a step again, in a later run that reuses the step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_plan.engine.calls.body import body_of
from pytest_plan.engine.calls.context import Context, starter_of
from pytest_plan.engine.shared.programs.resources import Care, kept_by
from pytest_plan.steps.containers.engines.engine import (
    Engine,
    UnreachableError,
    closing,
    open_engine,
)
from pytest_plan.steps.containers.engines.logs import Follower
from pytest_plan.steps.containers.engines.watching import failure_of, inspected, name_of, watch


class _Containers:
    """The keeper of containers; see `release`."""

    def failure(self, address: str, containers: Mapping[str, str]) -> str | None:
        """Return why a container does not work any more; None if all work."""
        for container, service in containers.items():
            try:
                attrs = inspected(address, container)
            except RuntimeError as error:
                return str(error)
            if attrs is None:
                return f"{f'service {service!r}' if service else 'its container'} was removed"
            if failure := failure_of(attrs, service):
                return f"{name_of(attrs, service)} {failure}"
        return None

    def resume(self, care: Care, address: str, containers: Mapping[str, str]) -> None:
        """Copy what the containers write from now on, and watch them."""
        try:
            engine = open_engine(address, None)
        except UnreachableError:
            return
        with closing(engine):
            for container, service in containers.items():
                Follower(care.log, engine, container, service, is_new=True)
                if attrs := inspected(address, container):
                    watch(care, address, attrs, service)


@kept_by(_Containers())
def release(address: str, containers: Mapping[str, str]) -> None:
    """Do nothing, as an undo of a step: `remove` removes the containers.

    A step defers this so that its record names the containers that a later run must find.

    Args:
        address: the address of the engine.
        containers: the ids of the containers, each with its service in a compose file, or "".
    """


def keep(ctx: Context, engine: Engine, containers: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Record and watch the containers of a step, which are ready.

    Args:
        ctx: the context of the step.
        engine: the engine.
        containers: the containers, as the engine describes them, each after its service or "".
    """
    found = {attrs["Id"]: (service, attrs) for service, attrs in containers}
    ctx.defer(release, engine.address, {one: service for one, (service, _) in found.items()})
    starter = starter_of(ctx)
    for service, attrs in found.values():
        end = watch(starter.care(), engine.address, attrs, service)
        if end is not None:
            starter.push(f"watch of {name_of(attrs, service)}", body_of(end))
