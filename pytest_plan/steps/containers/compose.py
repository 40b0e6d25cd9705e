"""Runs the services of compose files in a step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_plan.engine.calls.context import Context, starter_of
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import Duration, format_duration, parse_duration
from pytest_plan.engine.model.errors import PlanDefinitionError, PlanError
from pytest_plan.engine.shared.programs.readiness import Condition, Ready, condition_of
from pytest_plan.steps.containers.engines.engine import (
    PROJECT,
    Engine,
    closing,
    connect,
    explained,
    remove_project,
)
from pytest_plan.steps.containers.engines.keeping import keep
from pytest_plan.steps.containers.engines.logs import Follower
from pytest_plan.steps.containers.engines.mark import Mark
from pytest_plan.steps.containers.programs import ComposeProgram
from pytest_plan.steps.containers.ready import Usable, wait_for_containers
from pytest_plan.steps.containers.target import ContainerTarget
from pytest_plan.steps.containers.value import Container, value_of

_SERVICE = "com.docker.compose.service"
_NUMBER = "com.docker.compose.container-number"
_ONE_OFF = "com.docker.compose.oneoff"
_FILES = "compose: files must be the path of a compose file, or a list of paths"
_SERVICES = "compose: services must be a list such as ['web', 'db']"
_READY = "compose: ready must be a dict such as {'web': http('/health')}"

Path_ = str | os.PathLike[str]


def compose(
    ctx: Context,
    files: Path_ | Sequence[Path_],
    *,
    services: Sequence[str] | None = None,
    ready: Mapping[str, Ready] | None = None,
    timeout: Duration | None = None,
) -> dict[str, Container]:
    """Run the services of compose files until cleanup, and return once they are ready.

    This uses `docker compose`, docker-compose or podman-compose, the first that is installed, with
    a project of its own. Cleanup removes the containers, networks and volumes of the project, also
    after pytest was killed. What the containers write goes to the step's log.

    Args:
        ctx: the `ctx` of the hook.
        files: the compose file, or several that are merged.
        services: the services to start, with those on which they depend; None means all.
        ready: the conditions for services to be ready, by service. For a service without one, it
            means that its health check passes; without a health check, that its published TCP
            ports accept connections, or that it has exited with status 0.
        timeout: the maximum time until all services are ready; None means until the deadline of
            the step.

    Returns:
        The first container of each service, by service.

    Raises:
        RuntimeError: no engine answers, no such program is installed, a file has an error, a
            container cannot be started, or has ended before all were ready.
        TimeoutError: the services were not ready in time.
        PlanDefinitionError: an argument is invalid; nothing was started.
        PlanError: the hook must stop; see `Context.check`.
    """
    paths = _checked_files(files)
    wanted = _checked_services(services)
    conditions = _checked_conditions(ready)
    longest = None if timeout is None else parse_duration(timeout, "compose: timeout", zero=False)
    begun = SystemClock.now()
    with closing(connect(ctx)) as engine:
        name = Mark(ctx).name
        program = ComposeProgram(ctx, engine, paths, name)
        program.check()
        ctx.defer(remove_project, engine.address, name)
        program.up(wanted, longest)
        targets = _targets(ctx, engine, name)
        _wait(ctx, targets, conditions, longest, begun)
        keep(ctx, engine, [(service, target.attrs) for service, target in targets.items()])
        return {name: target.value for name, target in targets.items()}


def _wait(
    ctx: Context,
    targets: Mapping[str, ContainerTarget],
    conditions: Mapping[str, Condition],
    timeout: float | None,
    begun: float,
) -> None:
    """Wait until all services are ready."""
    if unknown := [name for name in conditions if name not in targets]:
        known = ", ".join(map(repr, targets)) or "none"
        raise PlanDefinitionError(f"{_READY}; {unknown[0]!r} is not a service; known: {known}")
    left = None if timeout is None else max(0.0, begun + timeout - SystemClock.now())
    pairs = [(target, conditions.get(name, Usable())) for name, target in targets.items()]
    try:
        wait_for_containers(ctx, pairs, left, "compose")
    except TimeoutError as error:
        if timeout is None or isinstance(error, PlanError):
            raise
        answer = str(error).partition(": ")[2]  # the time in the message is what was left
        text = f"not ready after {format_duration(timeout)}: {answer}"
        raise TimeoutError(text) from None


def _checked_files(files: Any) -> list[Path]:
    given = [files] if isinstance(files, (str, os.PathLike)) else files
    if not isinstance(given, Sequence) or not given:
        raise PlanDefinitionError(f"{_FILES}, not {files!r}")
    if wrong := [one for one in given if not isinstance(one, (str, os.PathLike))]:
        raise PlanDefinitionError(f"{_FILES}; {wrong[0]!r} is not a path")
    paths = [Path(os.path.abspath(os.fspath(one))) for one in given]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise PlanDefinitionError(
            f"compose: there is no file {missing[0]!r}; for a file beside the conftest, "
            "use Path(__file__).with_name('compose.yml')"
        )
    return paths


def _checked_services(services: Any) -> list[str]:
    if services is None:
        return []
    if isinstance(services, str) or not isinstance(services, Sequence) or not services:
        raise PlanDefinitionError(f"{_SERVICES}, not {services!r}")
    if wrong := [one for one in services if not isinstance(one, str)]:
        raise PlanDefinitionError(f"{_SERVICES}; {wrong[0]!r} is not a name")
    return list(services)


def _checked_conditions(ready: Any) -> dict[str, Condition]:
    if not isinstance({} if ready is None else ready, Mapping):
        raise PlanDefinitionError(f"{_READY}, not {ready!r}")
    return {name: condition_of(one) for name, one in (ready or {}).items()}


def _targets(ctx: Context, engine: Engine, project: str) -> dict[str, ContainerTarget]:
    """Return the first container of each service of a project."""
    with explained(f"cannot list the containers of project {project!r}"):
        found = engine.labelled("containers", f"{PROJECT}={project}")
        for one in found:
            one.reload()
    targets: dict[str, ContainerTarget] = {}
    for one in sorted(found, key=lambda one: int(one.labels.get(_NUMBER) or 1)):
        service = one.labels.get(_SERVICE)
        if not service or one.labels.get(_ONE_OFF) == "True":
            continue
        follower = Follower(starter_of(ctx).care().log, engine, one.id, service)
        if service not in targets:
            value = value_of(engine.host, one.attrs)
            targets[service] = ContainerTarget(engine, one, value, follower, service)
    return targets
